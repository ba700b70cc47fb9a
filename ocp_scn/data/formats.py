"""The two formats of data sets, one for each line of fairchem, where their packages are installed."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import lmdb
from ase import Atoms

from ocp_scn.errors import InputError, UnreadableError, cause

# Modules are loaded when they are needed: each wants packages that only its line of fairchem brings.
# What damaged and foreign rows end with.
_ERRORS: tuple[type[Exception], ...] = (lmdb.Error, zlib.error, ValueError, LookupError, TypeError)
_ERRORS += (AttributeError, RecursionError)
_BACKENDS = "ase-db-backends, which comes with fairchem-core 2"
_WRITERS = {
    "lmdb": ("ocp_scn.fairchem.v1.lmdb", "LmdbWriter", "fairchem-core 1.10"),
    "aselmdb": ("ocp_scn.data.aselmdb", "AseLmdbWriter", _BACKENDS),
}


class Writer(Protocol):
    """Write samples one by one into a folder; a context manager that completes it."""

    natoms: list[int]

    def write(self, atoms: Atoms, **properties: Any) -> None:
        """Append a structure with properties such as energy, forces, sid and fid."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *_: Any) -> None: ...


class MakeWriter(Protocol):
    """Something that makes the writer of a folder."""

    def __call__(self, folder: Path) -> Writer: ...


def writer(kind: str) -> MakeWriter:
    """Return the writer class of a format: ``lmdb`` (fairchem-core 1.10) or ``aselmdb`` (2).

    Raises:
        InputError: if this environment has not what it takes.
    """
    module, name, needs = _WRITERS[kind]
    try:
        return getattr(import_module(module), name)
    except ImportError as error:  # of a package, or of a name that the other line's package has not
        raise InputError(f"--format {kind} needs {needs}: {error}") from error


def read_ase_lmdb(files: Iterable[Path]) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    """Yield the rows of ASE-LMDB files, see `ocp_scn.data.aselmdb.read_rows`.

    Raises:
        InputError: if this environment has not what it takes.
        UnreadableError: if a file cannot be read.
    """
    for path in files:
        try:
            yield from import_module("ocp_scn.data.aselmdb").read_rows([path])
        except ModuleNotFoundError as error:
            raise InputError(f"reading {str(path)!r} needs {_BACKENDS}: {error}") from error
        except UnreadableError:
            raise
        except _ERRORS as error:
            raise UnreadableError(f"{str(path)!r} cannot be read: {cause(error)}") from error


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--format``."""
    parser.add_argument(
        "--format",
        choices=list(_WRITERS),
        default="lmdb",
        help="lmdb for fairchem-core 1.10, aselmdb for fairchem-core 2 (default: %(default)s)",
    )
