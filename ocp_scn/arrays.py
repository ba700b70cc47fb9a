"""What can be wrong with the arrays of results, whatever their structures are.

The arrays are ``ids`` (S,), ``energy`` (S,) or (S, 1), and for the rows of atoms ``forces`` or ``pos`` (A, 3)
with ``chunk_idx`` (S - 1,), where one structure ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
ROWS = ("forces", "pos")
# What is larger is no energy, force or position of OC20, total energies included.
LIMITS = {"energy": (1e4, "eV"), "forces": (1e3, "eV/Å"), "pos": (1e4, "Å")}


def shape_faults(arrays: Arrays) -> list[str]:
    """Return what keeps the arrays from being read as those of structures."""
    ids = arrays["ids"]
    if ids.ndim != 1 or ids.dtype.kind != "U" or not ids.size:
        return [f"ids are {ids.dtype} of shape {ids.shape}; expected texts of shape (structures,)"]
    allowed: dict[str, tuple[str, list[tuple[int, ...]]]]
    allowed = {"energy": ("f", [(len(ids),), (len(ids), 1)]), "chunk_idx": ("iu", [(len(ids) - 1,)])}
    for name in ROWS:
        if name in arrays:
            allowed[name] = ("f", [(*arrays[name].shape[:1], 3)])
    faults = [
        f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}; expected "
        f"{'floating point' if kinds == 'f' else 'integers'} of shape {shapes[0]}"
        for name, (kinds, shapes) in allowed.items()
        if name in arrays and (arrays[name].dtype.kind not in kinds or arrays[name].shape not in shapes)
    ]
    return faults or _chunk_faults(arrays)


def value_faults(arrays: Arrays) -> list[str]:
    """Return what is wrong with the values of arrays of the right shapes."""
    faults = doubled_ids(arrays["ids"])
    return faults + [fault for name in LIMITS if name in arrays for fault in _number_faults(name, arrays)]


def doubled_ids(ids: np.ndarray) -> list[str]:
    """Return which ids (S,) come more than once, as one fault or none."""
    names, counts = np.unique(ids, return_counts=True)
    doubled = names[counts > 1]
    return [f"{len(doubled)} ids come more than once, {some(doubled)}"] if len(doubled) else []


def row_counts(arrays: Arrays) -> np.ndarray:
    """Return the rows (S,) of each structure, in a track that has rows."""
    chunk_idx = arrays["chunk_idx"].astype(np.int64)
    return np.diff(chunk_idx, prepend=0, append=len(arrays[row_name(arrays)]))


def row_name(arrays: Arrays) -> str:
    """Return which array has a row for each atom, ``forces`` or ``pos``."""
    return next(name for name in ROWS if name in arrays)


def block_rows(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the rows of blocks of ``counts`` rows (S,), in the order (T,) of the blocks: (sum of rows,)."""
    taken = counts[order]
    shift = (np.cumsum(counts) - counts)[order] - (np.cumsum(taken) - taken)
    return np.repeat(shift, taken) + np.arange(taken.sum())


def some(ids: np.ndarray) -> str:
    """Return the first of some ids as text."""
    return ", ".join(repr(str(name)) for name in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _chunk_faults(arrays: Arrays) -> list[str]:
    if "chunk_idx" not in arrays:
        return []
    bad = np.flatnonzero(row_counts(arrays) < 0)
    if not len(bad):
        return []
    if bad[0] == len(arrays["ids"]) - 1:
        rows = row_name(arrays)
        return [f"chunk_idx ends at {arrays['chunk_idx'][-1]}, beyond the {len(arrays[rows])} rows of {rows}"]
    return [f"chunk_idx falls at {some(arrays['ids'][bad[:1]])}; expected rising numbers from 0"]


def _number_faults(name: str, arrays: Arrays) -> list[str]:
    values = arrays[name]
    limit, unit = LIMITS[name]
    flat = values.reshape(len(values), -1)
    overflown = np.isinf(flat).any(axis=1) if values.dtype == np.float16 else np.zeros(len(flat), bool)
    kinds = {
        "are beyond float16, which ends at 65504": overflown,
        "are not finite": ~np.isfinite(flat).all(axis=1) & ~overflown,
        f"are beyond {limit:g} {unit}": (np.isfinite(flat) & (np.abs(flat) > limit)).any(axis=1),
    }
    return [
        f"{name}: {bad.sum()} of {len(bad)} {text}, the first of {_owner(name, arrays, int(np.argmax(bad)))}"
        for text, bad in kinds.items()
        if bad.any()
    ]


def _owner(name: str, arrays: Arrays, row: int) -> str:
    """Return the id of the structure that has a row."""
    index = np.searchsorted(arrays["chunk_idx"], row, side="right") if name in ROWS else row
    return repr(str(arrays["ids"][index]))
