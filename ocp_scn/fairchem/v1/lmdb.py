"""Data sets in the LMDB format that fairchem-core 1.10's trainers read.

A data set is a folder with ``data.lmdb`` (keys "0", "1", …: pickled graphs; key "length"),
``metadata.npz`` (``natoms`` of each sample, for batches balanced by size) and ``elements.npz``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from fairchem.core.preprocessing import AtomsToGraphs
from torch_geometric.data import Data

from ocp_scn.errors import InputError
from ocp_scn.fairchem.training_data import write_elements
from ocp_scn.fairchem.v1.shards import ShardedLmdbDataset

# Address space reserved for a file that grows as it is written, bytes.
_MAP_SIZE = 1 << 40


def to_graph(atoms: Atoms, **properties: Any) -> Data:
    """Return a structure as fairchem's trainers expect it.

    Args:
        atoms: positions in Å; tags (0 sub-surface, 1 surface, 2 adsorbate) and ``FixAtoms``
            constraints are kept, positions are wrapped into the cell.
        properties: further attributes, such as ``energy`` (eV, float), ``forces`` (n, 3) eV/Å, ``sid``,
            ``fid``, ``y_relaxed``, ``pos_relaxed`` (n, 3) Å of the atoms as they are, which moves with
            those that are wrapped, and ``stress`` (3, 3) or (6,) eV/Å³, which becomes (1, 3, 3).
    """
    data = AtomsToGraphs(r_edges=False, r_pbc=True, r_energy=False, r_forces=False, r_fixed=True).convert(
        atoms
    )
    if "pos_relaxed" in properties:
        moved = torch.as_tensor(properties["pos_relaxed"] - atoms.positions).float()
        properties["pos_relaxed"] = data.pos + moved
    if "forces" in properties:
        properties["forces"] = torch.as_tensor(properties["forces"]).float()
    if "stress" in properties:
        full = properties["stress"]
        full = voigt_6_to_full_3x3_stress(full) if np.size(full) == 6 else np.reshape(full, (3, 3))
        properties["stress"] = torch.as_tensor(full)[None].float()
    for name, value in properties.items():
        setattr(data, name, value)
    return data


def open_data_set(source: str) -> ShardedLmdbDataset:
    """Open a data set; an :class:`InputError` if it does not exist."""
    if not Path(source).exists():
        raise InputError(f"data set {source!r} does not exist (run this where the training ran)")
    return ShardedLmdbDataset({"src": source})


class LmdbWriter:
    """Write samples one by one into a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.natoms: list[int] = []
        self._elements: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(
            str(folder / "data.lmdb"),
            map_size=_MAP_SIZE,
            subdir=False,
            meminit=False,
            map_async=True,
            lock=False,
        )
        self._transaction = self._env.begin(write=True)

    def write(self, atoms: Atoms, **properties: Any) -> None:
        """Append a structure with properties, see :func:`to_graph`."""
        self.add(to_graph(atoms, **properties))

    def add(self, data: Data) -> None:
        """Append a sample."""
        self._transaction.put(str(len(self.natoms)).encode("ascii"), pickle.dumps(data, protocol=4))
        self.natoms.append(int(data.natoms))
        self._elements.update(data.atomic_numbers.long().tolist())
        if len(self.natoms) % 1000 == 0:  # bounds the memory of uncommitted pages
            self._transaction.commit()
            self._transaction = self._env.begin(write=True)

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._transaction.put(b"length", pickle.dumps(len(self.natoms), protocol=4))
        self._transaction.commit()
        self._env.sync()
        self._env.close()
        np.savez(self.folder / "metadata.npz", natoms=np.array(self.natoms, dtype=np.int64))
        write_elements(self.folder, self._elements)
