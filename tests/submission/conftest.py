"""Four small data sets and results for them, in the layout of fairchem's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from ocp_scn.submission.archive import SPLITS
from ocp_scn.submission.structures import Structures, find_data_sets, read_structures
from tests.samples import write_lmdb

Arrays = dict[str, np.ndarray]
STRUCTURES = 12  # of a split


def make_structures(split: int) -> list[Data]:
    """Return structures of 3 to 9 atoms, some of them fixed; the second has fixed atoms only."""
    rng = np.random.default_rng(split)
    structures = []
    for index in range(STRUCTURES):
        natoms = int(rng.integers(3, 10))
        fixed = torch.tensor(rng.integers(0, 2, natoms) | (index == 1))
        fixed[0] = int(index == 1)
        structures.append(Data(sid=100 * split + index // 2, fid=index % 2, natoms=natoms, fixed=fixed))
    return structures


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets of the four splits."""
    folder = tmp_path_factory.mktemp("data")
    for number, split in enumerate(SPLITS):
        write_lmdb(folder / f"test_{split}", make_structures(number))
    return folder


@pytest.fixture(scope="session")
def data_sets(folder: Path) -> dict[str, Structures]:
    """What the data sets say of their structures."""
    return {split: read_structures(path) for split, path in find_data_sets([str(folder)]).items()}


def predictions(structures: Structures, dtype: type = np.float32) -> Arrays:
    """Return predictions of energies and forces as fairchem writes them: free atoms, sorted by id."""
    rng = np.random.default_rng(len(structures.ids))
    energy = rng.normal(-5, 2, (len(structures.ids), 1)).astype(dtype)
    forces = [rng.normal(size=(count, 3)).astype(dtype) for count in structures.free]
    order = np.argsort(structures.ids)
    return {
        "energy": energy[order],
        "forces": np.concatenate([forces[k] for k in order]),
        "chunk_idx": np.cumsum(structures.free[order])[:-1],
        "ids": structures.ids[order],
    }


@pytest.fixture
def results(data_sets: dict[str, Structures], tmp_path: Path) -> dict[str, list[Path]]:
    """The prediction file of each split, in a folder of its own."""
    files = {}
    for split, structures in data_sets.items():
        (tmp_path / split).mkdir()
        files[split] = [tmp_path / split / "ocp_predictions.npz"]
        np.savez_compressed(files[split][0], **predictions(structures))
    return files


def part_of(arrays: Arrays, chosen: np.ndarray) -> Arrays:
    """Return the predictions of some structures in any order."""
    forces = np.split(arrays["forces"], arrays["chunk_idx"])
    return {
        "energy": arrays["energy"][chosen],
        "forces": np.concatenate([forces[k] for k in chosen]),
        "chunk_idx": np.cumsum([len(forces[k]) for k in chosen])[:-1],
        "ids": arrays["ids"][chosen],
    }
