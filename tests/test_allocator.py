"""Memory that a process keeps for its next tensors."""

import os
import platform
import subprocess
import sys

import pytest
from fairchem.core import _cli

from ocp_scn.fairchem.v1 import launcher

PROGRAM = """
import resource
from pathlib import Path
import torch
from ocp_scn.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

keep_freed_memory()
before = resident()
tensors = [torch.zeros(2**22) for _ in range(12)]  # 16 MiB each
del tensors
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}, False),
    ],
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(setting, kept):
    """Of 192 MiB that are freed, the process keeps nearly all or nearly nothing."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env={**others, **setting}, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 180 if kept else float(done.stdout) < 20


def test_runs_of_the_command_line_keep_it(monkeypatch):
    """A process of ``main.py`` sets its allocator before anything is loaded."""
    order = []
    monkeypatch.setattr(launcher, "keep_freed_memory", lambda: order.append("allocator"))
    monkeypatch.setattr(_cli.Runner, "__call__", lambda self, config: order.append("run"))
    launcher.Runner()({"mode": "train", "submit": False, "cpu": True, "run_dir": ".", "is_debug": True})
    assert order == ["allocator", "run"]
