"""Files with structures: which there are, and what ASE reads of them."""

from __future__ import annotations

import lzma
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype
from ase.spacegroup.spacegroup import SpacegroupError

from ocp_scn.data import pickles
from ocp_scn.data.cif import read_cif
from ocp_scn.data.trajectories import read_trajectory
from ocp_scn.data.vasp import read_poscar, read_xdatcar
from ocp_scn.data.xyz import XYZ, read_xyz
from ocp_scn.errors import InputError, UnreadableError, cause
from ocp_scn.fairchem import sqlite

_TRAJECTORY = (".traj",)
_DATABASE = (sqlite.SUFFIX,)
PICKLED = (pickles.SUFFIX,)
SAMPLES = (*PICKLED, ".aselmdb")  # data sets of either line of fairchem
READABLE = XYZ + _TRAJECTORY + _DATABASE + SAMPLES
# What damaged and foreign files end with.
ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, EOFError, TypeError, AttributeError)
ERRORS += (AssertionError, RuntimeError, ArithmeticError, lzma.LZMAError, zlib.error, sqlite3.Error)
# And of an array that is larger than its file.
ERRORS += (MemoryError,)
# ASE's other readers raise more: of XML, of packages that are not there, of names that were never set.
_FOREIGN: tuple[type[Exception], ...] = (UnknownFileTypeError, ase.io.ParseError, SyntaxError, ImportError)
_FOREIGN += (NameError, struct.error, SpacegroupError)
_CHECKED = {"cif": read_cif, "vasp": read_poscar, "vasp-xdatcar": read_xdatcar}  # by ASE's names of formats


def read_structures(path: Path) -> Iterator[Atoms]:
    """Yield the structures of a file, whose info has the keys that may name their system and frame.

    Args:
        path: a file of ASE's formats, other than data sets of fairchem.

    Raises:
        UnreadableError: for a damaged or foreign file, after the structures that are before the damage.
    """
    count = 0
    try:
        for found in _structures(path):
            yield found
            count += 1
    except InputError:
        raise
    except ERRORS as error:
        where = f" from frame {count} on" if count else ""
        raise UnreadableError(f"{str(path)!r} cannot be read{where}: {cause(error)}") from error


def _structures(path: Path) -> Iterator[Atoms]:
    if path.name.endswith(XYZ):
        yield from read_xyz(path)
    elif path.name.endswith(_DATABASE):
        with sqlite.connect(path) as database:
            for row in database.select():
                atoms = row.toatoms()
                atoms.info.update({**row.data, **row.key_value_pairs})
                yield atoms
    elif path.name.endswith(_TRAJECTORY):
        yield from read_trajectory(path)
    else:
        try:
            kind = filetype(str(path))
            if kind in _CHECKED:
                yield from _CHECKED[kind](path)
            else:
                yield from ase.io.iread(str(path), index=":", do_not_split_by_at_sign=True)
        except AssertionError as error:  # without a word, where ASE's readers find what they do not expect
            raise ValueError(f"it is not what ASE expects of {kind}: {cause(error)}") from error
        except _FOREIGN as error:
            raise ValueError(f"ASE finds no structures in it: {cause(error)}") from error
