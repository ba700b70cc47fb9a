"""Files that a reader finds whole or not at all: those of a run's results, and LMDB files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from ocp_scn.errors import InputError, UnreadableError

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
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut may leave the new name with no content
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch's writer raises RuntimeError, and does not tell what the system said.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        cause = getattr(error, "strerror", None) or "a write failed"
        raise InputError(f"{path} cannot be written: {cause}, with {free:.1f} MiB free") from error
    finally:
        part.unlink(missing_ok=True)


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
