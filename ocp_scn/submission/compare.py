"""What can be wrong with a split, given the structures that the leaderboard has in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ocp_scn.arrays import Arrays, block_rows, row_counts, some
from ocp_scn.submission.structures import Structures, describe_missing


def structure_faults(split: str, arrays: Arrays, data_sets: Mapping[str, Structures]) -> list[str]:
    """Return missing and foreign ids, structures with too few or many rows, and forces on fixed atoms.

    Args:
        split: name of the split.
        arrays: its arrays, free of the faults that `ocp_scn.arrays.shape_faults` finds.
        data_sets: the structures of every split, in which foreign ids are looked for.
    """
    ids, here = arrays["ids"], data_sets[split]
    known = np.isin(ids, here.ids)
    faults = _foreign(ids[~known], len(ids), {name: data_sets[name] for name in data_sets if name != split})
    missing = describe_missing(ids, here)
    faults += [missing] if missing else []
    if "chunk_idx" not in arrays or not known.any():
        return faults
    chosen, rows = np.flatnonzero(known), row_counts(arrays)
    counts, wanted = rows[chosen], here.of(ids[chosen])
    whole = "pos" in arrays or complete(counts, wanted)
    wrong = _wrong_counts(counts, wanted, wanted.natoms if whole else wanted.free)
    if wrong or not whole or "pos" in arrays:
        return faults + wrong
    forces = arrays["forces"][block_rows(rows, chosen)]
    pushed = np.repeat(wanted.ids, wanted.natoms)[wanted.fixed & forces.any(axis=1)]
    if len(pushed):
        faults.append(f"{len(pushed)} fixed atoms have forces, the first in {some(pushed[:1])}; expected 0")
    return faults


def complete(counts: np.ndarray, structures: Structures) -> bool:
    """Tell whether there are rows for all atoms rather than for free ones, going by most structures."""
    return int((counts == structures.natoms).sum()) > int((counts == structures.free).sum())


def _foreign(ids: np.ndarray, total: int, others: Mapping[str, Structures]) -> list[str]:
    faults = []
    for name, structures in others.items():
        theirs = np.isin(ids, structures.ids)
        if theirs.any():
            faults.append(f"{theirs.sum()} of {total} ids are of split {name!r}, {some(ids[theirs])}")
        ids = ids[~theirs]
    return faults + ([f"{len(ids)} of {total} ids are in no data set, {some(ids)}"] if len(ids) else [])


def _wrong_counts(counts: np.ndarray, wanted: Structures, expected: np.ndarray) -> list[str]:
    bad = np.flatnonzero(counts != expected)
    if not len(bad):
        return []
    k = bad[0]
    return [
        f"{len(bad)} structures have too few or too many rows; {some(wanted.ids[[k]])} has {counts[k]}, "
        f"for {wanted.natoms[k]} atoms, {wanted.free[k]} of them free"
    ]
