"""npz files, read one array at a time, with one line for one that cannot be."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ocp_scn.errors import UnreadableError, cause

# What numpy ends with in a file that is damaged, cut short, of another kind, or holds pickled objects.
_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, EOFError, TypeError, AttributeError)
_ERRORS += (RuntimeError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError)
_ERRORS += (zipfile.BadZipFile, zlib.error)


class Npz:
    """An npz file whose arrays are read when they are asked for.

    Raises:
        UnreadableError: for a file, or later an array, that cannot be read or is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = np.load(path)
            self.keys: list[str] = list(self._file.files)
        except _ERRORS as error:  # numpy's single arrays have no names
            raise UnreadableError(f"{path} cannot be read as npz: {cause(error)}") from error

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.keys:
            raise UnreadableError(f"{self.path} has no {key!r}; it has {', '.join(self.keys)}")
        try:
            return self._file[key]
        except _ERRORS as error:
            raise UnreadableError(f"{self.path}: {key!r} cannot be read: {cause(error)}") from error

    def numbers(self, key: str) -> np.ndarray:
        """Return an array of numbers; flags, texts and complex numbers are none."""
        values = self[key]
        if values.dtype.kind not in "iuf":
            raise UnreadableError(f"{self.path}: {key!r} is {values.dtype}; expected numbers")
        return values
