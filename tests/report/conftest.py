"""A run's folder with all that a report reads, written without a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from torch_geometric.data import Data

from ocp_scn.fairchem.v1.relaxations import Relaxed, write_relaxed
from tests.samples import write_lmdb

STRUCTURES = 12
ENERGIES = np.linspace(-3, 3, STRUCTURES)  # of the validation set, eV
ERRORS = np.linspace(0.1, 0.4, STRUCTURES)  # of the predictions, eV
FORCE_ERROR = 0.25  # eV/Å, of every component


def structure(sid: int, energy: float, **more: object) -> Data:
    """Return three to five atoms, the first of them fixed."""
    natoms = 3 + sid % 3
    rng = np.random.default_rng(sid)
    return Data(
        pos=torch.tensor(rng.uniform(0, 8, (natoms, 3))).float(),
        cell=8 * torch.eye(3)[None],
        atomic_numbers=torch.ones(natoms),
        natoms=natoms,
        fixed=(torch.arange(natoms) == 0).long(),
        sid=sid,
        **{"energy": energy, "forces": torch.tensor(rng.normal(size=(natoms, 3))).float(), **more},
    )


def predictions(samples: list[Data]) -> dict[str, np.ndarray]:
    """Return a file of predictions with the known errors, in the order of the samples."""
    forces = [sample.forces[sample.fixed == 0].numpy() + FORCE_ERROR for sample in samples]
    return {
        "ids": np.array([f"{sample.sid}_0" for sample in samples]),
        "energy": np.array([[sample.energy + ERRORS[sample.sid]] for sample in samples], dtype=np.float32),
        "forces": np.concatenate(forces),
        "chunk_idx": np.cumsum([len(block) for block in forces])[:-1],
    }


@pytest.fixture
def samples() -> list[Data]:
    """The validation set."""
    return [structure(sid, energy, fid=0) for sid, energy in enumerate(ENERGIES.tolist())]


@pytest.fixture
def run_dir(tmp_path: Path, samples: list[Data]) -> Path:
    """The folder: a checkpoint, a loss curve, predictions of the validation set, relaxations."""
    run, data = tmp_path / "run", tmp_path / "data"
    write_lmdb(data / "train", [structure(100 + k, float(k), fid=0) for k in range(4)])
    write_lmdb(data / "val", samples)
    relaxed = [
        structure(k, 0.0, energy_relaxed=float(k), pos_relaxed=structure(k, 0.0).pos)
        for k in range(STRUCTURES)
    ]
    write_lmdb(data / "relax", relaxed)
    for name in ("checkpoints/mine", "results/predict", "results/relax"):
        (run / name).mkdir(parents=True)
    config = {
        "outputs": {"energy": {}, "forces": {}},
        "dataset": {"src": str(data / "train")},
        "val_dataset": {"src": str(data / "val")},
    }
    torch.save({"config": config, "state_dict": {}}, run / "checkpoints/mine/checkpoint.pt")
    with SummaryWriter(str(run / "logs/tensorboard/mine")) as writer:
        for step in range(20):
            writer.add_scalar("train/loss", 1 / (1 + step), step)
    np.savez_compressed(run / "results/predict/ocp_predictions.npz", **predictions(samples))
    found = {
        str(sample.sid): Relaxed(sample.pos.double().numpy(), sample.energy_relaxed + ERRORS[sample.sid])
        for sample in relaxed
    }
    write_relaxed(run / "results/relax/relaxed_positions.npz", found)
    (run / "results/relax/relaxations.json").write_text(json.dumps({"src": str(data / "relax")}))
    return run
