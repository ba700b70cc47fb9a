"""Text files of structures: unpacked no further than calculations go, with frames no longer than the file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

from ase.io.formats import open_with_compression

from ocp_scn.errors import InputError

# What unpacks to more than this, bytes, and to more than so many times its size is no calculation.
_LARGE, _RATIO = 1 << 28, 200
_CHUNK = 1 << 20


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file, unpacked to a temporary one if it is compressed.

    ASE jumps about in the file, and every jump back in a compressed one unpacks it from the start.

    Raises:
        InputError: where there is no room for the temporary file.
        ValueError: for a file that unpacks to too much, or has a frame that is longer than the file.
    """
    if path.suffix not in (".xz", ".gz"):
        with path.open() as text:
            _check_frames(text)
            yield text
        return
    with tempfile.TemporaryFile("w+b") as unpacked:
        most = max(_LARGE, _RATIO * path.stat().st_size)
        with open_with_compression(path, "rb") as packed:
            while chunk := packed.read(_CHUNK):
                if unpacked.tell() + len(chunk) > most:
                    raise ValueError(f"its {path.stat().st_size} bytes unpack to more than {most}")
                _write(unpacked, chunk)
        unpacked.seek(0)
        with open(unpacked.fileno(), closefd=False) as text:
            _check_frames(text)
            yield text


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        folder = tempfile.gettempdir()
        raise InputError(f"{folder} has no room for an unpacked file: {error.strerror}") from error


def _check_frames(text: IO[str]) -> None:
    """Check that no frame says that it has more atoms than the file has room for; ASE counts them all."""
    size = os.fstat(text.fileno()).st_size
    for number, header in enumerate(text):
        try:
            atoms = int(header)
        except ValueError:  # a blank line, a vector, or what ASE refuses
            continue
        if not 0 <= atoms <= size:
            raise ValueError(f"frame {number} says that it has {atoms} atoms, and the file has {size} bytes")
        next(islice(text, atoms + 1, atoms + 1), None)
    text.seek(0)
