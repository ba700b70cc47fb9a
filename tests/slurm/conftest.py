"""One SLURM for all tests of this folder, and trainings submitted to it as a user submits them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import HANG

# The tiny model and data of the other commands' tests.
from tests.commands.conftest import ROOT, Command, command, config, fairchem, sample
from tests.slurm.cluster import Cluster, missing

__all__ = ["Command", "command", "config", "fairchem", "sample"]

Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start SLURM in a folder of its own; stop it after the last test, whatever happened."""
    lacking = missing()
    if lacking:
        pytest.skip(f"no SLURM on this machine: {', '.join(lacking)} missing; see `make test-slurm`")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def submit(cluster: Cluster, config: Path) -> Submit:
    """Run ``main.py --mode train --submit`` with the tiny configuration; return the finished process."""

    def run(run_dir: Path, *words: object, cpu: bool = True) -> subprocess.CompletedProcess[str]:
        common = ["main.py", "--mode", "train", "--config-yml", config, "--submit", "--slurm-mem", 1]
        folders = ["--run-dir", run_dir, "--logdir", run_dir / "jobs"]
        return subprocess.run(
            [sys.executable, *map(str, [*common, *folders, *(["--cpu"] if cpu else []), *words])],
            cwd=ROOT,
            env={**cluster.environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )

    return run


def job_numbers(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the numbers of the jobs that a command submitted."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = re.search(r"Submitted jobs: (.+)", done.stdout)
    assert found is not None
    return found[1].split(", ")
