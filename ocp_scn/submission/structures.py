"""What the data sets of a leaderboard's splits say of their structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
import torch
from fairchem.core.datasets import LmdbDataset
from tqdm import tqdm

from ocp_scn.errors import InputError
from ocp_scn.fairchem.relaxations import system_name
from ocp_scn.fairchem.shards import shard_bounds
from ocp_scn.submission.archive import SPLITS, block_rows
from ocp_scn.submission.arrays import some

_MAX_LOST = 1000  # lost shards that are looked for


@dataclass(frozen=True)
class Structures:
    """The structures of a data set in its order: ids (S,), atoms (S,), and which atoms are fixed (A,)."""

    ids: np.ndarray
    natoms: np.ndarray
    fixed: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """The number of free atoms of each structure, (S,)."""
        counts = np.concatenate([[0], np.cumsum(~self.fixed)])
        ends = np.cumsum(self.natoms)
        return counts[ends] - counts[ends - self.natoms]

    def of(self, ids: np.ndarray) -> Structures:
        """Return these structures, all of which have to be here, in this order."""
        order = np.argsort(self.ids)
        found = order[np.searchsorted(self.ids[order], ids)]
        return Structures(ids, self.natoms[found], self.fixed[block_rows(self.natoms, found)])


def read_structures(source: Path) -> Structures:
    """Read a data set in fairchem's LMDB format; ids are those of its predictions.

    Raises:
        InputError: for a data set that cannot be read or that has no ``fixed`` atoms named.
    """
    try:
        data_set = LmdbDataset({"src": str(source)})
    except (lmdb.Error, AssertionError) as error:
        raise InputError(f"data set {str(source)!r} cannot be read: {error}") from error
    ids: list[str] = []
    natoms: list[int] = []
    fixed: list[np.ndarray] = []
    for sample in tqdm(data_set, desc=f"reading {source}", unit=" structures", delay=5, mininterval=5):
        if "fixed" not in sample or "sid" not in sample:
            raise InputError(f"data set {str(source)!r}: sample {len(ids)} has no 'fixed' or no 'sid'")
        fid = sample.fid.item() if isinstance(sample.get("fid"), torch.Tensor) else sample.get("fid")
        ids.append(system_name(sample) if fid is None else f"{system_name(sample)}_{fid}")
        natoms.append(int(sample.natoms))
        fixed.append(sample.fixed.numpy() != 0)
    return Structures(np.array(ids), np.array(natoms), np.concatenate(fixed))


def find_data_sets(words: Sequence[str]) -> dict[str, Path]:
    """Return the data set of each split; a word is ``SPLIT=PATH`` or a folder that has all four.

    In a folder they are called ``test_id`` or ``id`` and so on; ``test`` alone is a name of ``id``.

    Raises:
        InputError: for a split without a data set, or one that does not exist.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if equals and name in SPLITS:
            found[name] = Path(path)
            continue
        for split in SPLITS:
            names = [f"test_{split}", split, *(["test"] if split == "id" else [])]
            places = [Path(word) / name for name in names if (Path(word) / name).exists()]
            found |= {split: places[0]} if places else {}
    for split in SPLITS:
        if split not in found:
            raise InputError(f"--against {' '.join(words)} has no data set 'test_{split}' or '{split}'")
        if not found[split].exists():
            raise InputError(f"--against {split}={found[split]} does not exist")
    return found


def describe_missing(ids: np.ndarray, structures: Structures, parts: int | None = None) -> str | None:
    """Say which structures are not among the ids, or nothing if all are.

    Args:
        ids: those that are there.
        structures: those that have to be.
        parts: from how many result files the ids come; lost shards are then named.
    """
    missing = np.flatnonzero(~np.isin(structures.ids, ids))
    if not len(missing):
        return None
    total = len(structures.ids)
    text = f"{len(missing)} of {total} structures are missing, {some(structures.ids[missing])}"
    lost = lost_shards(missing, total, parts) if parts else None
    if lost:
        return f"{text}: shard {', '.join(map(str, lost[1]))} of total_shards={lost[0]}"
    return f"{text} (samples {missing[0]} to {missing[-1]} of the data set)"


def lost_shards(missing: np.ndarray, size: int, parts: int) -> tuple[int, list[int]] | None:
    """Return how many shards there were and which are lost, if just whole shards are missing.

    Args:
        missing: indices of the missing samples, sorted.
        size: samples of the data set.
        parts: shards that are there.
    """
    for total in range(parts + 1, min(parts + len(missing), parts + _MAX_LOST, size) + 1):
        bounds = shard_bounds(size, total)
        lacking = np.diff(np.searchsorted(missing, bounds))
        lost = np.flatnonzero(lacking == np.diff(bounds))
        if len(lost) == total - parts and lacking[lost].sum() == len(missing):
            return total, lost.tolist()
    return None
