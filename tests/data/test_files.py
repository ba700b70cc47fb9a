"""Files that are read stay as they are, files that are written are whole or not there."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import pickle
import re
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import lmdb
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch_geometric.data import Data

from ocp_scn.data import convert, sample, texts
from ocp_scn.data.__main__ import build_parser, main
from ocp_scn.data.frames import read_frames
from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.fairchem.files import written_whole
from ocp_scn.fairchem.v1 import lmdb as writing
from ocp_scn.fairchem.v1.relaxations import Relaxed, Results, write_relaxed
from ocp_scn.fairchem.v1.results import WholeResultsTrainer
from ocp_scn.fairchem.v1.shards import ShardedLmdbDataset
from ocp_scn.report.figures import plot_parity
from ocp_scn.submission import write_file
from ocp_scn.submission.archive import SPLITS
from tests import HANG
from tests.full_disk import full_disk
from tests.samples import write_lmdb


def frames(count: int = 3) -> list[Any]:
    """Return copper with energies and forces."""
    found = []
    for index in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=index)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - index, forces=np.full((4, 3), 0.1))
        found.append(atoms)
    return found


def samples(count: int = 3) -> list[Data]:
    return [
        Data(
            pos=torch.tensor(atoms.positions).float(),
            cell=torch.tensor(atoms.cell.array).float()[None],
            atomic_numbers=torch.full((4,), 29.0),
            natoms=4,
            energy=-1.0,
            forces=torch.zeros(4, 3),
            sid=f"lmdb{index}",
            fid=0,
        )
        for index, atoms in enumerate(frames(count))
    ]


def state(folder: Path) -> dict[str, str]:
    """Return the names of a folder's files, with hashes of what they have."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def with_log(path: Path, *, finished: bool) -> None:
    """Make a database of ASE with a write-ahead log, which is part of it unless it is finished."""
    with ase.db.connect(path) as database:
        database.write(frames(1)[0])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    if not finished:
        connection.execute("UPDATE systems SET energy = -2")
        connection.commit()
        left = {end: Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    connection.close()
    if not finished:
        for end, content in left.items():
            Path(f"{path}{end}").write_bytes(content)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a file of every kind."""
    folder = tmp_path / "in"
    write_lmdb(folder / "lmdb", samples())
    write(folder / "a.extxyz", frames())
    for name in ("e.traj", "b.db"):
        write(folder / name, frames())
    (folder / "c.extxyz.xz").write_bytes(lzma.compress((folder / "a.extxyz").read_bytes()))
    (folder / "d.xyz.gz").write_bytes(gzip.compress((folder / "a.extxyz").read_bytes()))
    with_log(folder / "log.db", finished=True)
    connection = sqlite3.connect(folder / "other.db")
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    return folder


@pytest.mark.parametrize("writable", [True, False])
def test_sources_are_only_read(source, tmp_path, capsys, writable):
    """Not even a lock or a journal is left beside them."""
    folders = [source, source / "lmdb"]
    before = state(source)
    if not writable:
        for path in source.rglob("*"):
            path.chmod(0o444 if path.is_file() else 0o555)
        source.chmod(0o555)
    try:
        assert main(["convert", str(source), str(tmp_path / "out"), "--bad-frames", "skip"]) == 0
    finally:
        for folder in folders:
            folder.chmod(0o755)
    out = capsys.readouterr().out
    assert "train: 19 frames" in out  # of all but other.db
    assert "other.db' cannot be read: it is no database of ASE" in out
    assert state(source) == before


def test_a_database_with_changes_beside_it_is_refused(tmp_path):
    """Those changes would be missing, or be written into it."""
    with_log(tmp_path / "log.db", finished=False)
    before = state(tmp_path)
    with pytest.raises(UnreadableError, match=r"log\.db-wal has changes that are not in it"):
        list(read_frames([tmp_path / "log.db"]))
    assert state(tmp_path) == before


def says_length(path: Path, length: Any) -> None:
    """Write a file of fairchem 1 that says how many samples it has."""
    write_lmdb(path.parent / "made", samples())
    (path.parent / "made/data.lmdb").rename(path)
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as txn:
        txn.put(b"length", pickle.dumps(length))


def repeated(path: Path) -> None:
    """Write a sample of one number, a thousand million times."""
    many = Data(**{**samples()[0].to_dict(), "pos": torch.zeros(1).expand(10**9, 3)})
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as txn:
        txn.put(b"0", pickle.dumps(many))


def many_items(path: Path) -> None:
    """Write a trajectory that says how many structures it has."""
    write(path, frames())
    content = bytearray(path.read_bytes())
    content[32:40] = np.int64(10**12).tobytes()
    path.write_bytes(content)


BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a.extxyz.xz": (lambda path: path.write_bytes(lzma.compress(bytes(1 << 22))), "unpack to more than"),
    "a.xyz.gz": (lambda path: path.write_bytes(gzip.compress(bytes(1 << 22))), "unpack to more than"),
    "a.xyz": (lambda path: path.write_text("1000000000000\n\nCu 0 0 0\n"), "of 1000000000000 atoms"),
    "negative.xyz": (
        lambda path: path.write_text("-5\n\nCu 0 0 0\n"),
        "expected a number of atoms, not '-5'",
    ),
    "a.lmdb": (lambda path: says_length(path, 10**12), "its length is 1000000000000"),
    "text.lmdb": (lambda path: says_length(path, "many"), "its length is no number"),
    "part.lmdb": (lambda path: says_length(path, 0.5), "its length is no number"),
    "code.lmdb": (lambda path: says_length(path, os.getcwd), "its length is no number"),
    "a.traj": (many_items, r"a\.traj' cannot be read: \w"),
    "repeated.lmdb": (repeated, "has 3000000000 numbers"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_says_that_it_is_larger_than_it_is(tmp_path, monkeypatch, name):
    """It is refused before memory is taken; a second is enough for that."""
    monkeypatch.setattr(texts, "_LARGE", 1 << 20)
    make, message = BOMBS[name]
    make(tmp_path / name)
    with pytest.raises(UnreadableError, match=message):
        list(read_frames([tmp_path / name]))


def test_a_long_frame_is_no_bomb(tmp_path):
    """Counts are compared with the file, not with a limit."""
    write(tmp_path / "a.xyz", [frames(1)[0].repeat(6)] * 2, format="extxyz")
    assert [len(frame.atoms) for frame in read_frames([tmp_path / "a.xyz"])] == [864, 864]


@pytest.mark.parametrize("length", [10**12, "many"])
def test_fairchem_makes_no_list_of_samples_that_there_are_not(tmp_path, length):
    says_length(tmp_path / "a.lmdb", length)
    with pytest.raises(InputError, match=r"a\.lmdb' cannot be read: its length is"):
        ShardedLmdbDataset({"src": str(tmp_path / "a.lmdb")})


def test_maps_grow_with_what_is_written(tmp_path, monkeypatch):
    """No sample is lost or comes twice where a map was full in the midst of a transaction."""
    monkeypatch.setattr(writing, "FIRST_MAP_SIZE", 1 << 16)
    monkeypatch.setattr(writing, "_CHUNK", 1 << 18)
    made = samples(400)
    write_lmdb(tmp_path / "out", made)
    read = ShardedLmdbDataset({"src": str(tmp_path / "out")})
    assert (tmp_path / "out/data.lmdb").stat().st_size > 1 << 19
    assert len(read) == 400
    assert all(torch.equal(read[index].pos, made[index].pos) for index in range(400))


@pytest.mark.parametrize("words", [["convert", "a.extxyz"], ["sample", "--systems", "10"]])
def test_little_address_space(tmp_path, words):
    """Python with torch takes up to 5 GiB of it, by its build; maps of files take what the files have."""
    write(tmp_path / "a.extxyz", frames())
    done = subprocess.run(
        [sys.executable, "-m", "ocp_scn.data", words[0], *words[1:], "out"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "wrote out" in done.stdout


def converted(folder: Path) -> None:
    words = ["convert", str(folder.parent / "many.extxyz"), str(folder / "out")]
    convert.convert(build_parser().parse_args(words))


def predictions(folder: Path) -> None:
    trainer: Any = WholeResultsTrainer.__new__(WholeResultsTrainer)
    trainer.config, trainer.name = {"cmd": {"results_dir": str(folder)}}, "ocp"
    energies = np.random.default_rng(0).normal(size=3000)
    found = {"ids": [str(number) for number in range(3000)], "energy": list(energies)}
    trainer.save_results(found, "predictions")


def submission(folder: Path) -> None:
    results = {split: [folder.parent / "found.npz"] for split in SPLITS}
    write_file(folder / "file.npz", "is2re", "current", results)


def record(folder: Path) -> None:
    settings = {"relax_opt": {}, "steps": "x" * 100_000}
    Results(folder).claim(settings, data={"src": "s"}, weights="w", write=True)


def make_sample(folder: Path) -> None:
    sample.make_sample(folder / "out", systems=10, progress=False)


def parity(folder: Path) -> None:
    plot_parity(folder / "parity.png", {"energy [eV]": (torch.rand(500), torch.rand(500))})


def relaxed(folder: Path) -> None:
    rng = np.random.default_rng(0)
    systems = {str(number): Relaxed(rng.normal(size=(100, 3)), 0.0) for number in range(10)}
    write_relaxed(folder / "relaxed.npz", systems)


def text(folder: Path) -> None:
    with written_whole(folder / "metrics.md") as part:
        part.write_text("x" * 100_000)


WRITERS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (converted, make_sample, predictions, submission, record, parity, relaxed, text)
}


@pytest.fixture(scope="module")
def system() -> sample.System:
    """A system of the sample, which takes a second."""
    return sample.make_system(sample.combinations(10, 0)[0], 0, 0)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path, monkeypatch, system, name):
    """What was there before stays, and no part is left beside it."""
    monkeypatch.setattr(sample, "make_system", lambda *_: system)
    write(tmp_path / "many.extxyz", frames(60))
    ids = np.array([str(number) for number in range(3000)])
    np.savez(tmp_path / "found.npz", ids=ids, energy=np.random.default_rng(0).normal(size=3000))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "before").write_text("kept")
    with full_disk(10_000), pytest.raises(InputError, match=r"cannot be written: .+, with [\d.]+ MiB free$"):
        WRITERS[name](folder)
    assert [path.name for path in folder.iterdir()] == ["before"]


def test_too_little_memory_is_one_line(tmp_path, monkeypatch, capsys):
    """Nothing of the data set is left."""
    write(tmp_path / "a.extxyz", frames())
    monkeypatch.setattr(convert, "_good_frames", lambda *_: np.empty(1 << 55))
    assert main(["convert", str(tmp_path / "a.extxyz"), str(tmp_path / "out"), "--references", "none"]) == 2
    assert "error: there is too little memory: Unable to allocate 256. PiB" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.extxyz"]


@pytest.mark.parametrize("words", [["convert", "a.extxyz"], ["sample", "--systems", "10"]])
def test_a_target_where_nothing_can_be_written(tmp_path, monkeypatch, capsys, words):
    write(tmp_path / "a.extxyz", frames())
    monkeypatch.chdir(tmp_path)
    assert main([*words, "a.extxyz/out"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: a\.extxyz/out cannot be written: (Not a directory|File exists), with ", line)


def test_what_a_killed_conversion_left_is_cleaned_by_the_next(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    (tmp_path / ".out.part/train").mkdir(parents=True)
    (tmp_path / ".out.part/train/data.lmdb").write_bytes(b"torn")
    assert main(["convert", str(tmp_path / "a.extxyz"), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.extxyz", "out"]
    assert len(ShardedLmdbDataset({"src": str(tmp_path / "out/train")})) == 3
