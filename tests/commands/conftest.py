"""A small data set and a tiny model, run through the commands as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import warm

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
Command = Callable[..., subprocess.CompletedProcess[str]]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a command refused its input without a traceback; return its line."""
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def kill_second_rank(process: subprocess.Popen[str]) -> None:
    """Kill the second of two ranks that a command has launched, as the system does for want of memory."""
    children = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    _, rank = (int(line.split()[0]) for line in children.stdout.splitlines() if "spawn_main" in line)
    os.kill(rank, signal.SIGKILL)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``python …`` from the project's root and return the finished process."""

    def run(*words: object, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = warm.run([*map(str, words)], ROOT, {**ENVIRONMENT, **environment})
        if ok:
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


@pytest.fixture(scope="session")
def sample(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of ten systems, and one in each split out of domain, made by the command."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    command("-m", "ocp_scn.data", "sample", folder, "--systems", 10, "--ood-systems", 1)
    return folder


@pytest.fixture(scope="session")
def config(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's configuration with a tiny model, on the small data set."""
    settings = yaml.safe_load((ROOT / "configs/s2ef/example/scn.yml").read_text())
    for split, values in settings["dataset"].items():
        values["src"] = str(sample / "s2ef" / split)
    settings["model"] |= {
        "lmax": 2,
        "num_interactions": 1,
        "sphere_channels": 8,
        "sphere_channels_reduce": 8,
        "hidden_channels": 8,
        "num_sphere_samples": 16,
    }
    settings["optim"] |= {"batch_size": 16, "max_epochs": 2}
    path = tmp_path_factory.mktemp("config") / "tiny.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def direct(sample: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of IS2RE's direct example with the tiny model, on the small data set."""
    settings = yaml.safe_load((ROOT / "configs/is2re/example/scn.yml").read_text())
    for split in ("train", "val", "test"):
        settings["dataset"][split]["src"] = str(sample / "is2re" / split)
    settings["model"] = yaml.safe_load(config.read_text())["model"] | {"regress_forces": False}
    settings["optim"] |= {"batch_size": 2, "max_epochs": 2}
    path = tmp_path_factory.mktemp("config") / "direct.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="session")
def fairchem(command: Command, config: Path) -> Command:
    """Run ``main.py`` in a mode on the CPU, with the tiny configuration if no other is given."""

    def run(
        mode: str, run_dir: Path, *words: object, config_yml: Path = config, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        common = ["main.py", "--mode", mode, "--config-yml", config_yml, "--cpu", "--run-dir", run_dir]
        return command(*common, *words, **options)

    return run


@pytest.fixture(scope="session")
def trained(fairchem: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training of two epochs, named ``train``."""
    run = tmp_path_factory.mktemp("run")
    fairchem("train", run, "--timestamp-id", "train", "--print-every", 1)
    return run


@pytest.fixture(scope="session")
def best(trained: Path) -> Path:
    """The best checkpoint of that training."""
    return trained / "checkpoints/train/best_checkpoint.pt"
