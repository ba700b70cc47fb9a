"""What is in the npz files of the leaderboards."""

from __future__ import annotations

import numpy as np

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
TRACKS = {  # and what the leaderboard reads of each split
    "s2ef": ("ids", "energy", "forces", "chunk_idx"),
    "is2re": ("ids", "energy"),
    "is2rs": ("ids", "pos", "chunk_idx"),
}
FORMATS = ("current", "evalai")


def block_rows(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the rows of blocks of ``counts`` rows (S,), in the order (T,) of the blocks: (sum of rows,)."""
    taken = counts[order]
    shift = (np.cumsum(counts) - counts)[order] - (np.cumsum(taken) - taken)
    return np.repeat(shift, taken) + np.arange(taken.sum())
