"""Data sets of which only some structures have energies and forces, through every mode."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fairchem.core.datasets import LmdbDataset
from torch_geometric.data import Data

from tests.commands.conftest import Command, refused
from tests.samples import write_lmdb

pytestmark = pytest.mark.slow


def samples(folder: Path) -> list[Data]:
    """Return the first samples of a data set, some without energy, without forces, or without both."""
    found = list(LmdbDataset({"src": str(folder)}))[:14]
    for number, sample in enumerate(found):
        if number % 3 == 0:
            del sample.energy
        if number % 2 == 0:
            del sample.forces
    return found


def values(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "forces_mae: " in line)
    return {name: float(value) for name, value in re.findall(r"(\w+): (-?[\d.e-]+|nan)", line)}


def test_training_validation_and_prediction(
    fairchem: Command, sample: Path, best: Path, tmp_path: Path
) -> None:
    train, val = samples(sample / "s2ef/train"), samples(sample / "s2ef/val")
    both = [data for data in val if "energy" in data and "forces" in data]
    known = [data for data in val if ("energy" in data) == ("forces" in data)]
    assert 0 < len(both) < len(known)
    for name, part in {"train": train, "val": val, "both": both, "known": known}.items():
        write_lmdb(tmp_path / name, part)
    sources = [f"--dataset.{name}.src={tmp_path / name}" for name in ("train", "val")]
    words = ["--num-gpus", 2, "--optim.batch_size=1", "--optim.max_epochs=1", "--timestamp-id", "some"]
    fairchem("train", tmp_path, *sources, *words)
    assert (tmp_path / "checkpoints/some/best_checkpoint.pt").is_file()

    metrics = {}
    for name in ("both", "known"):
        source = f"--dataset.val.src={tmp_path / name}"
        metrics[name] = values(fairchem("validate", tmp_path, "--checkpoint", best, source))
    for name in ("energy_mae", "forces_mae", "forces_cosine_similarity", "energy_forces_within_threshold"):
        assert metrics["both"][name] == pytest.approx(metrics["known"][name], abs=2e-4)

    words = ["--checkpoint", best, "--timestamp-id", "all", f"--dataset.test.src={tmp_path / 'val'}"]
    fairchem("predict", tmp_path, *words)
    predictions = np.load(tmp_path / "results/all/ocp_predictions.npz")
    assert sorted(predictions["ids"]) == sorted(f"{data.sid}_{data.fid}" for data in val)
    assert np.isfinite(predictions["energy"]).all()
    assert len(predictions["forces"]) == sum(int((data.fixed == 0).sum()) for data in val)

    fit = '--dataset.train.transforms.normalizer={"fit":{"targets":{"energy":{},"forces":{}}}}'
    line = refused(fairchem("train", tmp_path, *sources, fit, ok=False))
    assert "normalizer.fit: sample 0 has no 'energy'; expected one in every sample, or numbers" in line
