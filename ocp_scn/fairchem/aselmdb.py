"""ASE-LMDB files, of fairchem-core 2: read as far as they go, and written with little address space."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
from ase import Atoms
from ase.io.jsonio import decode
from ase_db_backends.aselmdb import LMDBDatabase

from ocp_scn.errors import UnreadableError, cause
from ocp_scn.fairchem.files import FIRST_MAP_SIZE, SizeGuard, open_lmdb, write_transaction

SUFFIX = ".aselmdb"
# A value that unpacks to more is no structure, bytes; zlib makes at most so many of each byte.
_LARGEST, _RATIO = 1 << 28, 1032


def connect(path: Path, **options: Any) -> LMDBDatabase:
    """Open a file to read it.

    Args:
        path: the file.
        options: further ones of the database, such as ``readahead``.

    Raises:
        UnreadableError: for a file that is cut short or says that it has more rows than there are.
    """
    with open_lmdb(path) as environment:
        _check_ids(path, environment)
    return _ReadOnly(path, **{**options, "readonly": True, "use_lock_file": False})


class _Database(LMDBDatabase):
    _env: Any = None
    _env_pid: int | None = None

    def close(self) -> None:
        """Close the file where this process has opened it; ASE's would open it for that."""
        if self._env_pid == os.getpid():
            self._env.close()


class _ReadOnly(_Database):
    def __init__(self, path: Path, **options: Any) -> None:
        self._guard = SizeGuard(path)
        super().__init__(path, **options)

    def _get_row(self, idx: int, include_data: bool = True) -> Any:
        self._guard.check()
        with self.env.begin(buffers=True) as transaction:
            value = transaction.get(f"{idx}".encode("ascii"))
            if value is not None and len(value) * _RATIO > _LARGEST:
                _unpacked(value, f"{self.filename}#{idx}")
        return super()._get_row(idx, include_data)


class Growing(_Database):
    """A new file, whose map grows with it; ASE's takes 2 TiB of address space."""

    ids: list[int]

    def __init__(self, path: Path) -> None:
        super().__init__(path, use_lock_file=False)

    def write_rows(self, rows: Iterable[tuple[Atoms, dict[str, Any]]]) -> None:
        """Append structures, with their calculators, and their data."""
        before = list(self.ids)

        def write(transaction: lmdb.Transaction) -> None:
            self.ids, self.txn = list(before), transaction
            try:
                for atoms, data in rows:
                    self.write(atoms, data=data)
            finally:
                del self.txn

        write_transaction(self.env, write)

    def _open_lmdb_env(self) -> None:
        self._env = lmdb.open(
            str(self.filename), map_size=FIRST_MAP_SIZE, subdir=False, meminit=False, sync=False, lock=False
        )
        self._env_pid = os.getpid()


def _check_ids(path: Path, environment: lmdb.Environment) -> None:
    """Check that a file does not say that it has more rows than entries: ASE makes a list of them."""
    with environment.begin() as transaction:
        found = {name: transaction.get(name.encode("ascii")) for name in ("nextid", "deleted_ids")}
    try:
        known = {
            name: decode(_unpacked(value, f"{path}#{name}").decode("utf-8"))
            for name, value in found.items()
            if value is not None
        }
        rows = int(known.get("nextid", 1)) - 1 - len(known.get("deleted_ids", []))
    except UnreadableError:
        raise
    except (zlib.error, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"{str(path)!r} cannot be read: {cause(error)}") from error
    entries = environment.stat()["entries"]
    if rows > entries:
        raise UnreadableError(
            f"{str(path)!r} cannot be read: it says that it has {rows} rows, and has {entries} entries"
        )


def _unpacked(value: Any, name: str) -> bytes:
    """Return what a value unpacks to, if that is not too large."""
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(value, _LARGEST)
    if unpacker.unconsumed_tail:
        raise UnreadableError(f"{name}: its {len(value)} bytes unpack to more than {_LARGEST}")
    return found
