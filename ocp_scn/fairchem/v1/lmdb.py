"""Data sets in the LMDB format that fairchem-core 1.10's trainers read.

A data set is a folder with ``data.lmdb`` (keys "0", "1", …: pickled graphs; key "length"),
``metadata.npz`` (``natoms`` of each sample, for batches balanced by size) and ``elements.npz``.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from fairchem.core.preprocessing import AtomsToGraphs
from torch_geometric.data import Data

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.files import FIRST_MAP_SIZE, write_transaction
from ocp_scn.fairchem.structures import near_origin
from ocp_scn.fairchem.training_data import METADATA_FILE, write_elements
from ocp_scn.fairchem.v1.data_checks import UNREADABLE
from ocp_scn.fairchem.v1.shards import ShardedLmdbDataset
from ocp_scn.npz import write_npz

# Pickles of so many bytes are written at a time, which bounds the memory of uncommitted pages.
_CHUNK = 1 << 24


def to_graph(atoms: Atoms, **properties: Any) -> Data:
    """Return a structure as fairchem's trainers expect it.

    Args:
        atoms: positions in Å; tags (0 sub-surface, 1 surface, 2 adsorbate) and ``FixAtoms``
            constraints are kept, positions are wrapped into the cell, and far from the origin, where float32
            has few digits left, moved to it as one.
        properties: further attributes, such as ``energy`` (eV, float), ``forces`` (n, 3) eV/Å, ``sid``,
            ``fid``, ``y_relaxed``, ``pos_relaxed`` (n, 3) Å of the atoms as they are, which moves with
            those that are wrapped, and ``stress`` (3, 3) or (6,) eV/Å³, which becomes (1, 3, 3).
    """
    data = AtomsToGraphs(r_edges=False, r_pbc=True, r_energy=False, r_forces=False, r_fixed=True).convert(
        near_origin(atoms)
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
    """Return a data set whose samples `read_sample` reads.

    Raises:
        InputError: for a data set that does not exist or cannot be read.
    """
    if not Path(source).exists():
        raise InputError(f"data set {source!r} does not exist (run this where the training ran)")
    try:
        return ShardedLmdbDataset({"src": source})
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"data set {source!r} cannot be read: {cause(error)}") from error


def read_sample(data_set: ShardedLmdbDataset, source: str, index: int) -> Data:
    """Return a sample of a data set.

    Raises:
        InputError: for a sample that is none; ``source`` is the data set in the message.
    """
    try:
        return data_set[index]
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"data set {source!r}: sample {index} cannot be read: {cause(error)}") from error


def read_data_set(source: str) -> Iterator[Data]:
    """Yield the samples of a data set.

    Raises:
        InputError: for a data set that does not exist or cannot be read, or a sample that is none.
    """
    data_set = open_data_set(source)
    for index in range(len(data_set)):
        yield read_sample(data_set, source, index)


class LmdbWriter:
    """Write samples one by one into a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.natoms: list[int] = []
        self._elements: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._env = lmdb.open(
            str(folder / "data.lmdb"),
            map_size=FIRST_MAP_SIZE,
            subdir=False,
            meminit=False,
            sync=False,  # until the end
            lock=False,
        )

    def write(self, atoms: Atoms, **properties: Any) -> None:
        """Append a structure with properties, see `to_graph`."""
        self.add(to_graph(atoms, **properties))

    def add(self, data: Data) -> None:
        """Append a sample."""
        self._put(str(len(self.natoms)), data)
        self.natoms.append(int(data.natoms))
        self._elements.update(data.atomic_numbers.long().tolist())
        if self._pending_bytes > _CHUNK:
            self._flush()

    def _put(self, key: str, value: Any) -> None:
        self._pending.append((key.encode("ascii"), pickle.dumps(value, protocol=4)))
        self._pending_bytes += len(self._pending[-1][1])

    def _flush(self) -> None:
        def write(transaction: lmdb.Transaction) -> None:
            for key, value in self._pending:
                transaction.put(key, value)

        write_transaction(self._env, write)
        self._pending, self._pending_bytes = [], 0

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with closing(self._env):
            if kind is not None:
                return
            self._put("length", len(self.natoms))
            self._flush()
            self._env.sync(True)
        natoms = np.array(self.natoms, dtype=np.int64)
        write_npz(self.folder / METADATA_FILE, [("natoms", natoms)])
        write_elements(self.folder, self._elements)
