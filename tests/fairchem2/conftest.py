"""A small data set and a tiny model for fairchem-core 2; without that, nothing here is collected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import warm
from tests.commands.conftest import ENVIRONMENT, ROOT, command  # noqa: F401  # a fixture

if not version("fairchem-core").startswith("2."):
    collect_ignore_glob = ["test_*.py"]

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = {
    "lmax": 2,
    "num_interactions": 1,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "hidden_channels": 8,
    "num_sphere_samples": 16,
}
# The interpreter of an environment with fairchem-core 1.10, `make test-fairchem2` names it.
FAIRCHEM1 = os.environ.get("OCP_SCN_FAIRCHEM1", "")
needs_fairchem1 = pytest.mark.skipif(
    not Path(FAIRCHEM1).is_file(), reason="no environment of fairchem-core 1.10 (OCP_SCN_FAIRCHEM1)"
)


def fairchem(*words: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run fairchem's command from the project's root on the CPU."""
    script = Path(sys.executable).with_name("fairchem")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = warm.run([str(script), "-c", *map(str, words)], ROOT, environment)
    if ok:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def losses(done: subprocess.CompletedProcess[str]) -> dict[int, list[str]]:
    """Return the losses of each step, with all digits, that the ranks of a training printed."""
    found: dict[int, list[str]] = {}
    for loss, step in re.findall(
        r"'train/loss': ([\d.e-]+), .*?'train/step': (\d+),", done.stdout + done.stderr
    ):
        found[int(step)] = sorted([*found.get(int(step), []), loss])
    return found


@pytest.fixture(scope="session")
def sample(command: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The folder of a data set of ten systems, and one in each split out of domain, made by the command."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    command(
        "-m", "ocp_scn.data", "sample", folder, "--systems", 10, "--ood-systems", 1, "--format", "aselmdb"
    )
    return folder


@pytest.fixture(scope="session")
def train(sample: Path) -> Run:
    """Train a tiny model with one of the examples on the sample."""

    def run(run_dir: Path, *words: object, task: str = "s2ef", example: str = "example") -> Run:
        overrides = [f"+model.backbone.{name}={value}" for name, value in TINY.items()]
        settings = {"train_src": sample / task / "train", "val_src": sample / task / "val", "print_every": 1}
        return fairchem(
            ROOT / f"configs/fairchem2/{task}/{example}.yaml",
            f"job.run_dir={run_dir}",
            "+job.timestamp_id=train",
            *[word.replace("+", "++") for word in overrides],
            *[f"{name}={value}" for name, value in settings.items()],
            *words,
        )

    return run


@pytest.fixture(scope="session")
def trained(train: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[str]]]:
    """The folder of a training of 8 steps, with a checkpoint after 4, and its losses."""
    run_dir = tmp_path_factory.mktemp("run")
    done = train(run_dir, *FEW_STEPS)
    return run_dir / "train", losses(done)


FEW_STEPS = ("max_epochs=null", "runner.max_steps=8", "evaluate_every_n_steps=4", "ema_decay=0.5")


@pytest.fixture(scope="session")
def checkpoint(trained: tuple[Path, dict[int, list[str]]]) -> Path:
    """The inference checkpoint at the end of that training."""
    return trained[0] / "checkpoints/final/inference_ckpt.pt"


@pytest.fixture(scope="session")
def trained_is2re(train: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[str]]]:
    """The inference checkpoint of a training of 8 steps for relaxed energies, and its losses."""
    run_dir = tmp_path_factory.mktemp("is2re")
    done = train(run_dir, *FEW_STEPS, "max_atoms=60", task="is2re")
    return run_dir / "train/checkpoints/final/inference_ckpt.pt", losses(done)
