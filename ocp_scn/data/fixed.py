"""Fixed atoms, in every form in which samples have them."""

from __future__ import annotations

from typing import Any

import numpy as np


def fixed_mask(fixed: Any, natoms: int) -> np.ndarray:
    """Return which atoms are fixed, (natoms,).

    Args:
        fixed: a flag an atom (booleans or 0 and 1; a list, an array, a column, a tensor), or indices of
            fixed atoms, each once. As many zeros and ones as there are atoms are flags.
        natoms: the number of atoms.

    Raises:
        ValueError: for anything else.
    """
    values = np.asarray(fixed)
    flat = values.reshape(-1)
    is_line = flat.size == max(values.shape, default=1)  # not a table, whose numbers are of something else
    if is_line and flat.size == natoms and flat.dtype.kind in "biuf" and np.isin(flat, (0, 1)).all():
        return flat != 0
    indices = is_line and flat.dtype.kind in "iu"
    indices = indices and len(np.unique(flat)) == flat.size  # else they are flags of other atoms
    if not flat.size or (indices and flat.min() >= 0 and flat.max() < natoms):
        mask = np.zeros(natoms, dtype=bool)
        mask[flat.astype(int)] = True
        return mask
    text = " ".join(str(flat[:8].tolist()).split())
    raise ValueError(f"fixed={text[:70]} of {natoms} atoms; expected a 0 or 1 for each, or indices")
