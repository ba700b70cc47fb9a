"""The npz files of the leaderboards: what they hold, and how they are written."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
TRACKS = {  # and what the leaderboard reads of each split
    "s2ef": ("ids", "energy", "forces", "chunk_idx"),
    "is2re": ("ids", "energy"),
    "is2rs": ("ids", "pos", "chunk_idx"),
}
FORMATS = ("current", "evalai")


def write_archive(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write what ``numpy.savez_compressed`` writes, with no more than one array in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for key, values in arrays:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
