"""A small data set and a tiny model, run through the commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``python …`` from the project's root and return the finished process."""

    def run(*words: object, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if ok:
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


@pytest.fixture(scope="session")
def sample(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of ten systems, made by the command."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    command("-m", "ocp_scn.data", "sample", folder, "--systems", 10)
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
def trained(command: Command, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training of two epochs, named ``train``."""
    run = tmp_path_factory.mktemp("run")
    command(
        "main.py",
        "--mode",
        "train",
        "--config-yml",
        config,
        "--cpu",
        "--run-dir",
        run,
        "--timestamp-id",
        "train",
        "--print-every",
        1,
    )
    return run
