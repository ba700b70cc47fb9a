"""The installed command ``ocp-scn``: what it does, and which module does it.

It is no module of the package, whose import loads torch and fairchem: help, the version and mistakes are
answered without them, and of the package only what a command needs is imported.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import NamedTuple, NoReturn


class Command(NamedTuple):
    """A command: the module whose ``main(argv)`` it is, the words before the user's, what it does."""

    module: str
    words: tuple[str, ...]
    text: str


_RUNS = "ocp_scn.runs"
COMMANDS = {
    "train": Command(_RUNS, ("train",), "train a model, or resume a training"),
    "validate": Command(_RUNS, ("validate",), "evaluate a checkpoint on labelled data"),
    "predict": Command("ocp_scn.predict", (), "predict the structures in a file or folder with a checkpoint"),
    "relax": Command(_RUNS, ("relax",), "relax a data set with a checkpoint's forces"),
    "finetune": Command(_RUNS, ("finetune",), "fine-tune a checkpoint on your own data"),
    "data": Command(
        "ocp_scn.data.__main__", (), "make data sets from calculations, make a sample, print statistics"
    ),
    "submission": Command("ocp_scn.submission.__main__", (), "write and check files for the leaderboards"),
    "checkpoint": Command("ocp_scn.checkpoint", (), "convert checkpoints between fairchem 1 and 2"),
    "report": Command("ocp_scn.report.__main__", (), "write a report of a run: tables and figures"),
    "viz": Command("ocp_scn.viz.__main__", (), "draw the spherical channels of a network"),
    "configs": Command("ocp_scn.experiments", (), "list the included experiments, and copy one"),
}
_EXAMPLES = """examples:
  ocp-scn configs copy s2ef/example/scn
  ocp-scn data sample datasets/sample
  ocp-scn train --config configs/s2ef/example/scn.yml --cpu --optim.max_epochs=1"""
_SETTINGS = """train, validate and relax take --KEY=VALUE for any setting of their configuration, with dots
between the levels: --optim.batch_size=8 --model.lmax=4"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status (2 for bad input, 130 for Ctrl-C)."""
    name, *words = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(_version())
        return 0
    if name not in COMMANDS:
        print(f"error: {_unknown(name)} (see ocp-scn --help)", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    with loading():
        module = importlib.import_module(command.module)
        return int(module.main([*command.words, *words]))


@contextmanager
def loading() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the process with one line, up to where a command answers them itself."""
    answers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, answer in answers.items():
        if answer in (signal.SIG_DFL, signal.default_int_handler):  # not where nohup or & ignores them
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)


def _end(number: int, _: FrameType | None) -> NoReturn:
    # No exception, which modules that are loaded might catch, and no buffer, which might be in use.
    os.write(2, f"ended by {signal.Signals(number).name}: nothing has begun\n".encode())
    os._exit(128 + number)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ocp-scn COMMAND ...",
            "       ocp-scn COMMAND --help",
            "       ocp-scn --version",
            "\nTrain and use the Spherical Channel Network.\n\ncommands:",
            *lines,
            f"\n{_SETTINGS}\n\n{_EXAMPLES}",
        ]
    )


def _version() -> str:
    found = [f"ocp-scn {version('ocp-scn')}", f"Python {sys.version.split()[0]}"]
    for package in ("torch", "fairchem-core"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _unknown(name: str) -> str:
    if not name:
        return f"no command given; expected {', '.join(COMMANDS)}"
    nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)[0]
    return f"{name!r} is no command of ocp-scn; the nearest is {nearest!r}"


if __name__ == "__main__":
    sys.exit(main())
