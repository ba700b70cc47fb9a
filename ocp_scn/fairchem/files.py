"""Files that a reader finds whole or not at all: those of a run's results, and LMDB files."""

from __future__ import annotations

import errno
import operator
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from ocp_scn.errors import InputError, UnreadableError, cause
from ocp_scn.unpickling import ERRORS, loads

# Where a map begins, bytes.
FIRST_MAP_SIZE = 1 << 24
# What the system answers where a user has to make room or choose another folder.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
RELAXED_FILE = "relaxed_positions.npz"  # in a run's results, of all that was relaxed


def of_other_line(line: int, path: Path | str = "FILE") -> str:
    """Return what refuses a checkpoint of line 1 or 2 of fairchem where the other one is installed."""
    return (
        f"{path} is a checkpoint of fairchem-core {line}, and this is {3 - line}; where fairchem-core 2 is "
        f"installed, python -m ocp_scn.checkpoint convert {path} TARGET writes one for {3 - line}"
    )


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path``; what is written there takes the file's place when it is complete.

    Raises:
        InputError: where it cannot be written; the file that was there before stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with refused_writes(path):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())  # or a power cut may leave the new name with no content
            part.replace(path)
    finally:
        with suppress(OSError):  # where the folder is none or forbidden, there is no part either
            part.unlink()


@contextmanager
def refused_writes(path: Path) -> Iterator[None]:
    """Turn what the system says of writing a file or folder into an error with the path and the room left.

    Raises:
        InputError: instead of the errors of the system, of LMDB and of torch's writer.
    """
    try:
        yield
    except (OSError, RuntimeError, lmdb.Error) as error:
        # torch's writer raises RuntimeError, and does not tell what the system said.
        torchs = isinstance(error, RuntimeError)
        if torchs and "inline_container" not in str(error):
            raise
        said = "a write failed" if torchs else getattr(error, "strerror", None) or cause(error)
        folder = next(place for place in path.absolute().parents if place.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        raise InputError(f"{path} cannot be written: {said}, with {free:.1f} MiB free") from error


@contextmanager
def refusals_as_input_errors(folder: str) -> Iterator[None]:
    """Turn what the system says of a full disk or a forbidden folder into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error


def open_lmdb(path: Path) -> lmdb.Environment:
    """Open an LMDB file to read it.

    Raises:
        UnreadableError: for another file, or one that is cut short: reading what is not there would end the
            process without a word.
    """
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=True)
    except lmdb.Error as error:
        raise UnreadableError(f"{str(path)!r} cannot be read: {error}") from error
    size, whole = path.stat().st_size, (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:
        environment.close()
        raise UnreadableError(f"{str(path)!r} cannot be read: it is cut short, {size} bytes of {whole}")
    return environment


def sample_count(path: Path, environment: lmdb.Environment) -> int:
    """Return how many samples an open LMDB file of fairchem 1 says that it has; its entries if it does not.

    Raises:
        UnreadableError: for what is no number, or is more than its entries: fairchem makes a list of them.
    """
    entries = environment.stat()["entries"]
    with environment.begin() as transaction:
        data = transaction.get(b"length")
    if data is None:
        return entries
    try:
        count = operator.index(loads(data))  # no 3.5, which would be three samples
    except ERRORS as error:
        raise UnreadableError(f"{str(path)!r} cannot be read: its length is no number: {error}") from error
    if not 0 <= count <= entries:
        text = f"{str(path)!r} cannot be read: its length is {count}, and it has {entries} entries"
        raise UnreadableError(text)
    return count


class SizeGuard:
    """The size that a file has while it is read.

    What is cut off an LMDB file ends the process that reads it without a word.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size

    def check(self) -> None:
        """Raise `InputError` if the file has another size than at first, or is gone."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size != self._size:
            text = f"{str(self._path)!r} was changed while it was read"
            raise InputError(f"{text}: it had {self._size} bytes, and has {size}")


def write_transaction(environment: lmdb.Environment, write: Callable[[lmdb.Transaction], None]) -> None:
    """Write to an LMDB file in one transaction, and again with a larger map as often as the map is full.

    The map takes as much address space as it may grow to, which limits of a process's memory count.
    """
    full = True
    while full:
        try:
            with environment.begin(write=True) as transaction:
                write(transaction)
            full = False
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
