"""Databases that are read stay as they are; files that are written are whole or not there."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import ase.db
import lmdb
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ocp_scn import checkpoint
from ocp_scn.data import convert
from ocp_scn.data.__main__ import build_parser
from ocp_scn.data.aselmdb import AseLmdbWriter, read_rows
from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.fairchem import aselmdb
from ocp_scn.fairchem.v2 import AseDatabase
from ocp_scn.fairchem.v2.predict import write_predictions
from tests.fairchem2.structures import slab
from tests.full_disk import full_disk
from tests.test_npz import with_header

ROWS = 250


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set of one file."""
    with AseLmdbWriter(tmp_path / "data") as writer:
        for number in range(ROWS):
            writer.write(slab(number), energy=float(number), sid=str(number))
    return tmp_path / "data/data.0000.aselmdb"


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put(path: Path, key: str, text: bytes) -> None:
    """Change a value of a database."""
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as txn:
        txn.put(key.encode("ascii"), zlib.compress(text))


def test_maps_grow_with_what_is_written(tmp_path, monkeypatch):
    """No row is lost or comes twice where a map was full in the midst of a transaction."""
    monkeypatch.setattr(aselmdb, "FIRST_MAP_SIZE", 1 << 16)
    with AseLmdbWriter(tmp_path / "data") as writer:
        for number in range(ROWS):
            writer.write(slab(number), energy=float(number), sid=str(number))
    rows = list(read_rows([tmp_path / "data/data.0000.aselmdb"]))
    assert [data["sid"] for _, data in rows] == [str(number) for number in range(ROWS)]
    assert [atoms.get_potential_energy() for atoms, _ in rows] == list(range(ROWS))


def test_databases_are_only_read(source):
    """Not even ASE's tables come into another database of the folder."""
    with ase.db.connect(source.parent / "rows.db") as database:
        database.write(slab(0))
    before = state(source.parent)
    data = AseDatabase({"src": str(source.parent)})
    assert [data.get_atoms(index).info["sid"] for index in (0, ROWS - 1)] == ["0", str(ROWS - 1)]
    assert len(data) == ROWS + 1
    connection = sqlite3.connect(source.with_name("other.db"))
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    before = state(source.parent)
    with pytest.raises(InputError, match=r"other\.db' cannot be read: it is no database of ASE"):
        AseDatabase({"src": str(source.parent)})
    assert state(source.parent) == before


def test_a_database_that_is_cut_short(source):
    """It is not left out, as fairchem leaves out what is no database, and does not end the process."""
    os.truncate(source, source.stat().st_size - 4096)
    with pytest.raises(InputError, match=r"aselmdb' cannot be read: it is cut short"):
        AseDatabase({"src": str(source.parent)})
    with pytest.raises(UnreadableError, match="it is cut short"):
        list(read_rows([source]))


def test_a_database_that_is_cut_short_while_it_is_read(source):
    data = AseDatabase({"src": str(source)})
    assert data.get_atoms(0).info["sid"] == "0"
    os.truncate(source, source.stat().st_size - 4096)
    with pytest.raises(InputError, match=r"aselmdb' was changed while it was read: it had \d+ bytes"):
        data.get_atoms(ROWS - 1)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("nextid", b"1000000000000", f"it says that it has {10**12 - 1} rows, and has {ROWS + 1} entries"),
        ("nextid", b'"many"', "cannot be read: invalid literal"),
        ("nextid", bytes(1 << 21), "unpack to more than"),
        ("deleted_ids", b"5", "cannot be read: "),
        ("7", b'{"a": [' + bytes(1 << 21), "7: its .* bytes unpack to more than"),
    ],
)
def test_what_says_that_it_is_larger_than_it_is(source, monkeypatch, key, text, message):
    """It is refused before memory is taken."""
    monkeypatch.setattr(aselmdb, "_LARGEST", 1 << 20)
    put(source, key, text)
    with pytest.raises(UnreadableError, match=message):
        list(read_rows([source]))
    with pytest.raises(InputError, match=message):
        AseDatabase({"src": str(source)}).get_atoms(6)


def test_metadata_larger_than_their_file(source):
    """fairchem reads them without a look at their size."""
    with_header(source.with_name("metadata.npz"), (10**12,), "<i8")
    with pytest.raises(InputError, match=r"metadata\.npz: 'a' cannot be read: it says int64 of shape"):
        AseDatabase({"src": str(source)})


def converted(folder: Path) -> None:
    words = ["convert", str(folder.parent / "many.traj"), str(folder / "out"), "--format", "aselmdb"]
    convert.convert(build_parser().parse_args(words))


def predictions(folder: Path) -> None:
    rng = np.random.default_rng(0)
    write_predictions(folder / "found.npz", [(str(n), 0.0, rng.normal(size=(100, 3))) for n in range(30)])


def of_other_line(folder: Path) -> None:
    checkpoint.convert(folder.parent / "source.pt", folder / "target.pt")


@pytest.mark.parametrize("write_to", [converted, predictions, of_other_line])
def test_a_full_disk_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_to: Callable[[Path], None]
) -> None:
    frames = [slab(number) for number in range(60)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
    write(tmp_path / "many.traj", frames)
    torch.save({}, tmp_path / "source.pt")
    monkeypatch.setattr(checkpoint, "read_trained", lambda _: (1, None))
    monkeypatch.setattr(checkpoint, "_of_other_line", lambda *_: {"weights": torch.rand(100_000)})
    folder = tmp_path / "out"
    folder.mkdir()
    with full_disk(10_000), pytest.raises(InputError, match=r"cannot be written: .+, with [\d.]+ MiB free$"):
        write_to(folder)
    assert list(folder.iterdir()) == []
