"""The npz files of the leaderboards, read and written one array at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ocp_scn.errors import InputError

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
TRACKS = {  # and what the leaderboard reads of each split
    "s2ef": ("ids", "energy", "forces", "chunk_idx"),
    "is2re": ("ids", "energy"),
    "is2rs": ("ids", "pos", "chunk_idx"),
}
FORMATS = ("current", "evalai")
# What goes wrong inside a file that is cut short or holds pickled objects.
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Archive:
    """An npz file whose arrays are read when they are asked for.

    Raises:
        InputError: for a file, or later an array, that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = np.load(path)
            self.keys: list[str] = list(self._file.files)
        except (*_READ_ERRORS, AttributeError) as error:  # numpy's single arrays have no names
            raise InputError(f"{path} cannot be read as npz: {error}") from error

    def __getitem__(self, key: str) -> np.ndarray:
        try:
            return self._file[key]
        except _READ_ERRORS as error:
            raise InputError(f"{self.path}: {key!r} cannot be read: {error}") from error


def write_archive(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write what ``numpy.savez_compressed`` writes, with no more than one array in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for key, values in arrays:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def block_rows(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the rows of blocks of ``counts`` rows (S,), in the order (T,) of the blocks: (sum of rows,)."""
    taken = counts[order]
    shift = (np.cumsum(counts) - counts)[order] - (np.cumsum(taken) - taken)
    return np.repeat(shift, taken) + np.arange(taken.sum())
