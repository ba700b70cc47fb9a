"""Bad input ends a command with status 2 and one line that names the value."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from tests.commands.conftest import Command, refused
from tests.malice import Evil
from tests.samples import write_lmdb

pytestmark = pytest.mark.slow


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


def train_on(fairchem: Command, folder: Path, *samples: Data) -> str:
    write_lmdb(folder / "bad", samples)
    return refused(fairchem("train", folder, f"--dataset.train.src={folder / 'bad'}", ok=False))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"energy": None}, "no sample has 'energy'; sample 0 has atomic_numbers, cell,"),
        ({"forces": torch.full((2, 3), torch.nan)}, "system 7 has forces with numbers that are not finite"),
        ({"atomic_numbers": torch.tensor([6, 95])}, "atomic number 95 in system 7, atom 1"),
        ({"pos": torch.tensor([[0.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]])}, "in system 7, atom 1"),
        (
            {"pos": torch.tensor([[0.0, 0.0, 0.0], [8.0, 0.0, 0.0]])},
            "system 7, atom 0 and atom 1 are at one place",
        ),
    ],
)
def test_samples(fairchem: Command, tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    assert expected in train_on(fairchem, tmp_path, structure(**changes))


def test_bad_label_in_a_process_that_loads_data(fairchem: Command, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "bad", [structure(energy=float("nan"))])
    words = ["--optim.num_workers=1", f"--dataset.train.src={tmp_path / 'bad'}"]
    line = refused(fairchem("train", tmp_path, *words, ok=False))
    assert line == "error: system 7 has energy with numbers that are not finite"


def test_data_paths(fairchem: Command, tmp_path: Path) -> None:
    def refusal(source: object) -> str:
        return refused(fairchem("train", tmp_path, f"--dataset.train.src={source}", ok=False))

    assert "'nowhere' does not exist" in refusal("nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no *.lmdb file" in refusal(tmp_path / "empty")
    assert "needs dataset.train.src" in refusal("")


def test_model_settings(fairchem: Command, tmp_path: Path) -> None:
    misspelt = refused(fairchem("train", tmp_path, "--model.hiden_channels=8", ok=False))
    assert "'hiden_channels'; did you mean 'hidden_channels'?" in misspelt
    assert "lmax=11; expected 1..10" in refused(fairchem("train", tmp_path, "--model.lmax=11", ok=False))


def test_checkpoints(fairchem: Command, best: Path, tmp_path: Path) -> None:
    def refusal(*words: object) -> str:
        return refused(fairchem("validate", tmp_path, *words, ok=False))

    assert "needs --checkpoint" in refusal()
    torch.save({"state_dict": {"backbone.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    other = refusal("--checkpoint", tmp_path / "other.pt")
    assert "is of another model: its first weight is 'backbone.weight'" in other
    (tmp_path / "noise.pt").write_bytes(pickle.dumps(np.zeros(3)))
    assert "is not a checkpoint" in refusal("--checkpoint", tmp_path / "noise.pt")
    (tmp_path / "checkpoints/torn").mkdir(parents=True)
    (tmp_path / "checkpoints/torn/checkpoint.pt").write_bytes(best.read_bytes()[:1000])
    torn = refused(fairchem("train", tmp_path, "--timestamp-id", "torn", ok=False))
    assert "torn/checkpoint.pt is not a checkpoint" in torn
    wider = refusal("--checkpoint", best, "--model.hidden_channels=16")
    assert "does not fit the model's settings" in wider


def test_files_that_run_something(fairchem: Command, command: Command, tmp_path: Path) -> None:
    """A data set of a training and a checkpoint of a report; --trust lets them."""
    marker, run = tmp_path / "marker", tmp_path / "run/checkpoints/evil"
    line = train_on(fairchem, tmp_path, structure(sid=Evil(marker)))
    assert f"{tmp_path / 'bad'}: sample 0 cannot be read: refused 'posix.mkdir'" in line
    run.mkdir(parents=True)
    torch.save({"state_dict": Evil(marker)}, run / "checkpoint.pt")
    words = ["-m", "ocp_scn.report", tmp_path / "run"]
    line = refused(command(*words, ok=False))
    assert line.startswith(f"error: {run / 'checkpoint.pt'}: refused 'posix.mkdir'")
    assert not marker.exists()
    line = refused(command(*words, "--trust", ok=False))
    assert "it has no 'config'; it has state_dict" in line
    assert marker.exists()


def test_ids_of_predictions(fairchem: Command, best: Path, tmp_path: Path) -> None:
    """Nothing is computed for a file that would keep one result of two."""
    write_lmdb(tmp_path / "twice", [structure(), structure(fid=1), structure()])
    words = ["--checkpoint", best, f"--dataset.test.src={tmp_path / 'twice'}"]
    line = refused(fairchem("predict", tmp_path, *words, ok=False))
    assert "samples 0 and 2 both have id '7_0'; results need distinct ones" in line
    assert not (tmp_path / "results").exists()


def test_a_training_that_is_done(fairchem: Command, trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints/train/checkpoint.pt"
    line = refused(fairchem("train", tmp_path, "--checkpoint", checkpoint, ok=False))
    assert "nothing is left to train: the training is at epoch 2" in line
    assert "optim.max_epochs=2; raise it" in line
    assert not list(tmp_path.rglob("*checkpoint.pt"))


def test_requests_of_ranks(fairchem: Command, tmp_path: Path) -> None:
    def refusal(*words: object, **options: str) -> str:
        return refused(fairchem("train", tmp_path, *words, ok=False, **options))

    assert "--gp-gpus 2: this model does not split a system" in refusal("--num-gpus", 2, "--gp-gpus", 2)
    assert "there is no srun on the PATH" in refusal("--submit", PATH="/nowhere")
    assert "--sweep-yml needs --submit" in refusal("--sweep-yml", "sweep.yml")
    assert not (tmp_path / "checkpoints").exists()


def test_no_gpu(command: Command, config: Path, tmp_path: Path) -> None:
    words = ["main.py", "--mode", "train", "--config-yml", config, "--run-dir", tmp_path]
    line = refused(command(*words, ok=False, CUDA_VISIBLE_DEVICES=""))
    assert "needs a GPU, but 0 are visible; --cpu uses none" in line


def test_bad_sample_in_a_rank(fairchem: Command, tmp_path: Path) -> None:
    bad = structure(atomic_numbers=torch.tensor([6, 95]))
    write_lmdb(tmp_path / "bad", [bad, bad])
    words = ["--num-gpus", 2, f"--dataset.train.src={tmp_path / 'bad'}", "--optim.batch_size=1"]
    done = fairchem("train", tmp_path, *words, ok=False)
    assert done.returncode == 2
    assert "error: atomic number 95" in done.stderr
