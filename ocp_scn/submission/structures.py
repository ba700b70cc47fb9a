"""What the data sets of a leaderboard's splits say of their structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.constraints import FixAtoms
from tqdm import tqdm

from ocp_scn.arrays import block_rows, doubled_ids, some
from ocp_scn.data import pickles
from ocp_scn.data.fixed import fixed_mask
from ocp_scn.data.formats import read_ase_lmdb
from ocp_scn.errors import InputError
from ocp_scn.predictions import shard_bounds, structure_name
from ocp_scn.submission.archive import SPLITS

Row = tuple[str, np.ndarray]  # a structure's name, and which of its atoms are fixed (n,)

_ASE_LMDB = ".aselmdb"
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
    """Read a data set of either line of fairchem; ids are those of its predictions.

    Args:
        source: a file, or a folder of files, in fairchem 1's LMDB format or in fairchem 2's ASE-LMDB.

    Raises:
        InputError: for a data set that cannot be read, one of fairchem 1 without ``fixed`` or ``sid``, or
            an id that comes twice.
    """
    files = _find_files(source)
    rows = _ase_rows(files) if files[0].suffix == _ASE_LMDB else _pickled_rows(files, source)
    ids: list[str] = []
    fixed: list[np.ndarray] = []
    for name, mask in tqdm(
        rows, desc=f"reading {source}", unit=" structures", delay=5, mininterval=5, disable=None
    ):
        ids.append(name)
        fixed.append(mask)
    if not ids:
        raise InputError(f"data set {str(source)!r} is empty")
    names = np.array(ids)
    doubled = doubled_ids(names)
    if doubled:
        raise InputError(f"data set {str(source)!r}: {doubled[0]}")
    return Structures(names, np.array([len(mask) for mask in fixed]), np.concatenate(fixed))


def _find_files(source: Path) -> list[Path]:
    """Return the files of a data set, in the order in which fairchem reads them."""
    files = [source] if source.is_file() else sorted(source.glob("*"))
    for suffix in (pickles.SUFFIX, _ASE_LMDB):
        found = [path for path in files if path.suffix == suffix]
        if found:
            return found
    raise InputError(f"data set {str(source)!r} cannot be read: no {pickles.SUFFIX} or {_ASE_LMDB} file")


def _pickled_rows(files: Sequence[Path], source: Path) -> Iterator[Row]:
    names = ("sid", "fid", "fixed", "natoms")
    samples = (sample for path in files for sample in pickles.read_attributes(path, names))
    for index, sample in enumerate(samples):
        if "fixed" not in sample or "sid" not in sample:
            raise InputError(f"data set {str(source)!r}: sample {index} has no 'fixed' or no 'sid'")
        try:
            fixed = fixed_mask(sample["fixed"], int(sample.get("natoms", np.size(sample["fixed"]))))
        except (TypeError, ValueError) as error:
            raise InputError(f"data set {str(source)!r}: sample {index} has {error}") from error
        yield structure_name(sample["sid"], sample.get("fid")), fixed


def _ase_rows(files: Sequence[Path]) -> Iterator[Row]:
    for index, (atoms, data) in enumerate(read_ase_lmdb(files)):
        fixed = np.zeros(len(atoms), dtype=bool)
        for constraint in atoms.constraints:
            if isinstance(constraint, FixAtoms):
                fixed[constraint.index] = True
        yield structure_name(data.get("sid", index), data.get("fid")), fixed


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
