"""ASE's SQLite databases, read without writing to them or beside them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ase.db.sqlite import SQLite3Database

from ocp_scn.errors import UnreadableError, cause

SUFFIX = ".db"
# What a program that writes to a database, or ended in the midst of it, leaves beside it.
_UNFINISHED = ("-wal", "-journal")


def connect(path: Path) -> SQLite3Database:
    """Open a database to read it.

    Raises:
        UnreadableError: for one without ASE's tables, or with changes that are not in the file yet.
    """
    for ending in _UNFINISHED:
        beside = path.with_name(path.name + ending)
        if beside.is_file() and beside.stat().st_size:
            raise UnreadableError(
                f"{str(path)!r} cannot be read: {beside.name} has changes that are not in it; "
                "end what writes to it, or open and close it once with sqlite3"
            )
    database = _ReadOnly(str(path.absolute()), use_lock_file=False)
    try:
        with database:
            query = "SELECT 1 FROM sqlite_master WHERE name = 'systems'"
            if not database.connection.execute(query).fetchone():
                raise UnreadableError(f"{str(path)!r} cannot be read: it is no database of ASE")
    except sqlite3.Error as error:
        raise UnreadableError(f"{str(path)!r} cannot be read: {cause(error)}") from error
    return database


class _ReadOnly(SQLite3Database):
    def _connect(self) -> sqlite3.Connection:
        path = Path(self.filename)
        uri = f"{path.as_uri()}?mode=ro"
        with path.open("rb") as file:
            if file.read(20)[18:] == b"\2\2":  # a write-ahead log, the locks of which are files beside it
                uri += "&immutable=1"
        return sqlite3.connect(uri, uri=True, timeout=20)
