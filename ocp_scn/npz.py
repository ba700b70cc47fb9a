"""numpy's npz files, read no further than their bytes can go, and written one array at a time."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from ocp_scn.errors import UnreadableError, cause

# What goes wrong inside a file that is cut short, foreign, or holds pickled objects.
_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, EOFError, TypeError, AttributeError)
_ERRORS += (RuntimeError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError)
_ERRORS += (zipfile.BadZipFile, zlib.error)
# A small file that unpacks to more than this, bytes, and to more than so many times its size is no data.
_LARGE, _RATIO = 1 << 28, 200


class Npz:
    """An npz file whose arrays are read when they are asked for.

    An array's shape has to agree with the bytes that the file has for it, before memory is taken.

    Raises:
        UnreadableError: for a file, or later an array, that cannot be read or is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
            self.keys = [name.removesuffix(".npy") for name in self._file.namelist()]
        except _ERRORS as error:
            raise UnreadableError(f"{path} cannot be read as npz: {cause(error)}") from error

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __getitem__(self, key: str) -> np.ndarray:
        self.check(key)
        try:
            with self._open(key) as member:
                return np.lib.format.read_array(member, allow_pickle=False)
        except _ERRORS as error:
            raise UnreadableError(f"{self.path}: {key!r} cannot be read: {cause(error)}") from error

    def numbers(self, key: str) -> np.ndarray:
        """Return an array of numbers; flags, texts and complex numbers are none."""
        values = self[key]
        if values.dtype.kind not in "iuf":
            raise UnreadableError(f"{self.path}: {key!r} is {values.dtype}; expected numbers")
        return values

    def _open(self, key: str) -> IO[bytes]:
        return self._file.open(f"{key}.npy")

    def check(self, key: str) -> None:
        """Check an array's size.

        Raises:
            UnreadableError: for an array that is none, or of another size than it says.
        """
        if key not in self.keys:
            raise UnreadableError(f"{self.path} has no {key!r}; it has {', '.join(self.keys)}")
        try:
            self._check_size(key)
        except _ERRORS as error:
            raise UnreadableError(f"{self.path}: {key!r} cannot be read: {cause(error)}") from error

    def _check_size(self, key: str) -> None:
        with self._open(key) as member:
            shape, dtype = _header(member)
            info = self._file.getinfo(f"{key}.npy")
            count, has = math.prod(map(int, shape)), info.file_size - member.tell()
        if dtype.hasobject:
            raise ValueError("Object arrays are pickles, which are not read")
        if count * dtype.itemsize != has or (count and not dtype.itemsize):
            raise ValueError(f"it says {dtype} of shape {shape}, and has {has} bytes")
        if info.file_size > max(_LARGE, _RATIO * info.compress_size):
            raise ValueError(f"its {info.compress_size} bytes unpack to {info.file_size}")


def check_npz(path: str | Path | None) -> None:
    """Check the size of every array of an npz file, before something else reads it; other files pass.

    Raises:
        UnreadableError: for a file that cannot be read, or an array of another size than it says.
    """
    if path is not None and Path(path).suffix == ".npz" and Path(path).is_file():
        file = Npz(Path(path))
        for key in file.keys:
            file.check(key)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of the array that a file begins with."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if min(shape, default=0) < 0:
        raise ValueError(f"it says shape {shape}")
    return shape, dtype


def write_npz(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write what ``numpy.savez_compressed`` writes, with no more than one array in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for key, values in arrays:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)
