"""Commands as a user runs them, each in a process of its own, which need not import torch and fairchem again.

A process takes five seconds and more to import what all commands need; what a command then does with small
data takes one. So a server, Python's own for multiprocessing, imports it once, and each command is a fork of
the server. Tests of the pages and of the installed commands start Python afresh.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from tests import HANG

# Without those that ``python -m`` runs: it warns of a module that is loaded before.
COMMON = {
    "1": ("ocp_scn.fairchem.v1.launcher", "fairchem.core.trainers.ocp_trainer", "matplotlib.pyplot"),
    "2": ("ocp_scn.fairchem.v2.command", "ocp_scn.fairchem.v2.runner", "matplotlib.pyplot"),
}


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``python words`` in a folder and with an environment; words begin with a file, ``-m`` or ``-c``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *COMMON[version("fairchem-core")[0]]])
    with tempfile.TemporaryDirectory() as work:
        out, err = Path(work, "stdout"), Path(work, "stderr")
        process = context.Process(target=_become, args=(list(words), folder, dict(environment), out, err))
        process.start()
        process.join(HANG)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, HANG, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _become(words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """Do in this process what ``python words`` does."""
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    multiprocessing.set_start_method(None, force=True)  # Python's default, not this process's
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv, sys.modules["__main__"] = ["-c", *words[2:]], ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.argv = words
            runpy.run_path(str(folder / words[0]), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing's processes leave them out
