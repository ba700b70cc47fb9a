"""Bad input ends a command with status 2 and one line that names the value."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from ocp_scn.data.lmdb import write_lmdb
from tests.commands.conftest import Command

pytestmark = pytest.mark.slow


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a command refused its input without a traceback; return its line."""
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def structure(**changes: object) -> Data:
    """Return a sample of two atoms with some values changed or, if None, left out."""
    values = {
        "pos": torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]),
        "cell": 8 * torch.eye(3)[None],
        "atomic_numbers": torch.tensor([6, 8]),
        "natoms": 2,
        "tags": torch.zeros(2, dtype=torch.int),
        "fixed": torch.zeros(2, dtype=torch.int),
        "pbc": torch.ones(3, dtype=torch.bool),
        "energy": 1.0,
        "forces": torch.zeros(2, 3),
        "sid": 7,
        "fid": 0,
    } | changes
    return Data(**{key: value for key, value in values.items() if value is not None})


def train_on(command: Command, config: Path, folder: Path, *samples: Data) -> str:
    write_lmdb(folder / "bad", samples)
    return refused(
        command(
            "main.py",
            "--mode",
            "train",
            "--config-yml",
            config,
            "--cpu",
            "--run-dir",
            folder,
            f"--dataset.train.src={folder / 'bad'}",
            ok=False,
        )
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"energy": None}, "sample 0 has no 'energy'"),
        ({"atomic_numbers": torch.tensor([6, 95])}, "atomic number 95 in system 7, atom 1"),
        ({"pos": torch.tensor([[0.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]])}, "in system 7, atom 1"),
        (
            {"pos": torch.tensor([[0.0, 0.0, 0.0], [8.0, 0.0, 0.0]])},
            "system 7, atom 0 and atom 1 are at one place",
        ),
    ],
)
def test_samples(
    command: Command, config: Path, tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    assert expected in train_on(command, config, tmp_path, structure(**changes))


def test_data_paths(command: Command, config: Path, tmp_path: Path) -> None:
    common = ["main.py", "--mode", "train", "--config-yml", config, "--cpu", "--run-dir", tmp_path]
    assert "'nowhere' does not exist" in refused(command(*common, "--dataset.train.src=nowhere", ok=False))
    (tmp_path / "empty").mkdir()
    empty = refused(command(*common, f"--dataset.train.src={tmp_path / 'empty'}", ok=False))
    assert "has no *.lmdb file" in empty
    assert "needs dataset.train.src" in refused(command(*common, "--dataset.train.src=", ok=False))


def test_model_settings(command: Command, config: Path, tmp_path: Path) -> None:
    common = ["main.py", "--mode", "train", "--config-yml", config, "--cpu", "--run-dir", tmp_path]
    assert "'hiden_channels'; did you mean 'hidden_channels'?" in refused(
        command(*common, "--model.hiden_channels=8", ok=False)
    )
    assert "lmax=11; expected 1..10" in refused(command(*common, "--model.lmax=11", ok=False))


def test_checkpoints(command: Command, config: Path, trained: Path, tmp_path: Path) -> None:
    common = ["main.py", "--mode", "validate", "--config-yml", config, "--cpu", "--run-dir", tmp_path]
    assert "needs --checkpoint" in refused(command(*common, ok=False))
    torch.save({"state_dict": {"backbone.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    other = refused(command(*common, "--checkpoint", tmp_path / "other.pt", ok=False))
    assert "is of another model: its first weight is 'backbone.weight'" in other
    (tmp_path / "noise.pt").write_bytes(pickle.dumps(np.zeros(3)))
    assert "is not a checkpoint" in refused(command(*common, "--checkpoint", tmp_path / "noise.pt", ok=False))
    best = trained / "checkpoints/train/best_checkpoint.pt"
    wider = refused(command(*common, "--checkpoint", best, "--model.hidden_channels=16", ok=False))
    assert "does not fit the model's settings" in wider


def test_bad_sample_in_a_rank(command: Command, config: Path, tmp_path: Path) -> None:
    bad = structure(atomic_numbers=torch.tensor([6, 95]))
    write_lmdb(tmp_path / "bad", [bad, bad])
    done = command(
        "main.py",
        "--mode",
        "train",
        "--config-yml",
        config,
        "--cpu",
        "--num-gpus",
        2,
        "--run-dir",
        tmp_path,
        f"--dataset.train.src={tmp_path / 'bad'}",
        "--optim.batch_size=1",
        ok=False,
    )
    assert done.returncode == 2
    assert "error: atomic number 95" in done.stderr
