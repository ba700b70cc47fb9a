"""Text files of structures, unpacked no further than calculations go."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ocp_scn.errors import InputError

# What unpacks to more than this, bytes, and to more than so many times its size is no calculation.
_LARGE, _RATIO = 1 << 28, 200
_CHUNK = 1 << 14  # bytes of a compressed file, which may become some thousand times as many


@contextmanager
def open_text(path: Path, encoding: str = "utf-8") -> Iterator[IO[str]]:
    """Open a text file, unpacked to a temporary one if it is compressed, since its checksum comes at the end.

    Raises:
        InputError: where there is no room for the temporary file.
        ValueError, OSError, EOFError, lzma.LZMAError, zlib.error: for a compressed file that is damaged, cut
            short, or unpacks to too much.
    """
    if path.suffix not in (".xz", ".gz", ".bz2"):
        with path.open(encoding=encoding) as text:
            yield text
        return
    with tempfile.TemporaryFile() as unpacked:
        size = path.stat().st_size
        most = max(_LARGE, _RATIO * size)
        for data in _unpack_xz(path) if path.suffix == ".xz" else _unpack(path):
            if unpacked.tell() + len(data) > most:
                raise ValueError(f"its {size} bytes unpack to more than {most}")
            _write(unpacked, data)
        unpacked.seek(0)
        yield io.TextIOWrapper(unpacked, encoding=encoding)


def _unpack(path: Path) -> Iterator[bytes]:
    with (bz2.open if path.suffix == ".bz2" else gzip.open)(path) as packed:
        while data := packed.read(1000 * _CHUNK):
            yield data


def _unpack_xz(path: Path) -> Iterator[bytes]:
    """Yield the content of all streams; Python's own reader takes a damaged one for the end of the file."""
    decoder = lzma.LZMADecompressor()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            data = chunk
            while data := data.lstrip(b"\0") if decoder.eof else data:  # streams may be padded
                decoder = lzma.LZMADecompressor() if decoder.eof else decoder
                yield decoder.decompress(data)
                data = decoder.unused_data
    if not decoder.eof:
        raise EOFError("it is cut short: the compressed data have no end")


def _write(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        folder = tempfile.gettempdir()
        raise InputError(f"{folder} has no room for an unpacked file: {error.strerror}") from error
