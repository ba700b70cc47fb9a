"""Data sets for fairchem-core 2: conversion from every source, and what its reader makes of them."""

from __future__ import annotations

import io
import json
import lzma
import os
import pickle
import subprocess
from pathlib import Path

import ase.db
import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixBondLengths, FixedPlane, FixScaled
from ase.io import write
from torch.utils.data import DataLoader

from ocp_scn.data.__main__ import main
from ocp_scn.data.aselmdb import AseLmdbWriter, read_rows
from ocp_scn.data.frames import read_frames
from ocp_scn.errors import InputError
from ocp_scn.fairchem.training_data import elements_of
from ocp_scn.fairchem.v2 import AseDatabase
from ocp_scn.submission.structures import read_structures
from tests import HANG
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FAIRCHEM1, needs_fairchem1
from tests.fairchem2.structures import slab


def frames(systems: int = 3, each: int = 2) -> list[Atoms]:
    """Return slabs with energies and forces that stand for calculated ones."""
    found = []
    for system in range(systems):
        for fid in range(each):
            atoms = slab(10 * system + fid)
            rng = np.random.default_rng([system, fid])
            forces = rng.normal(size=(len(atoms), 3))
            stress = rng.normal(size=6)
            atoms.calc = SinglePointCalculator(
                atoms, energy=float(rng.normal()), forces=forces, stress=stress
            )
            atoms.info = {"sid": f"sys{system}", "fid": fid, "y_relaxed": float(rng.normal())}
            atoms.info["pos_relaxed"] = atoms.positions + 0.1
            found.append(atoms)
    return found


def with_columns(atoms: Atoms) -> Atoms:
    """Return the frame with its relaxed positions as a per-atom column, as extxyz wants them."""
    found = atoms.copy()
    found.calc = atoms.calc
    found.set_array("pos_relaxed", found.info.pop("pos_relaxed"))
    return found


def write_source(folder: Path, kind: str, originals: list[Atoms]) -> Path:
    if kind == "db":
        with ase.db.connect(folder / "frames.db") as database:
            for atoms in originals:
                database.write(atoms, data=atoms.info)
        return folder / "frames.db"
    if kind == "oc20":
        text = io.StringIO()
        write(text, [with_columns(atoms) for atoms in originals], format="extxyz")
        (folder / "0.extxyz.xz").write_bytes(lzma.compress(text.getvalue().encode()))
        lines = [f"{atoms.info['sid']},frame{atoms.info['fid']},10.5" for atoms in originals]
        (folder / "0.txt").write_text("\n".join(lines))
        return folder
    converted = [with_columns(atoms) for atoms in originals] if kind == "extxyz" else originals
    write(folder / f"frames.{kind}", converted)
    return folder / f"frames.{kind}"


@pytest.mark.parametrize("kind", ["extxyz", "traj", "db", "oc20"])
def test_every_source_keeps_ids_tags_fixed_atoms_and_targets(tmp_path, kind):
    originals = frames()
    source = write_source(tmp_path, kind, originals)
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", "aselmdb"]) == 0
    files = sorted((tmp_path / "out/train").iterdir())
    assert [path.name for path in files] == ["data.0000.aselmdb", "elements.npz", "metadata.npz"]
    assert elements_of(AseDatabase({"src": str(files[0].parent)})) == {
        n for a in originals for n in a.numbers
    }
    data = AseDatabase({"src": str(tmp_path / "out/train")})
    assert data._metadata["natoms"].tolist() == [len(atoms) for atoms in originals]
    shift = 10.5 if kind == "oc20" else 0.0
    for index, original in enumerate(originals):
        atoms, sample = data.get_atoms(index), data[index]
        assert (atoms.info["sid"], atoms.info["fid"]) == (original.info["sid"], original.info["fid"])
        assert sample.sid == [f"{original.info['sid']}-frame-{original.info['fid']}"]
        assert sample.tags.tolist() == original.get_tags().tolist()
        assert sample.fixed.nonzero()[:, 0].tolist() == original.constraints[0].index.tolist()
        assert float(sample.energy) == pytest.approx(original.get_potential_energy() - shift, abs=1e-6)
        assert np.allclose(sample.forces, original.get_forces(apply_constraint=False), atol=1e-6)
        assert np.allclose(atoms.positions, original.positions, atol=1e-7)
        assert np.allclose(atoms.info["pos_relaxed"], original.info["pos_relaxed"], atol=1e-7)
        assert atoms.info["y_relaxed"] == pytest.approx(original.info["y_relaxed"], abs=1e-7)
        assert np.allclose(atoms.get_stress(), original.get_stress(), atol=1e-7)
        assert np.allclose(atoms.cell, original.cell)
        assert atoms.pbc.tolist() == original.pbc.tolist()


def test_its_own_files_are_a_source_too(sample, tmp_path):
    """To split them anew, say; nothing is lost, and nothing is left beside them."""
    source = sample / "is2re/train"
    before = sorted(path.name for path in source.iterdir())
    arguments = ["convert", str(source), str(tmp_path / "out"), "--format", "aselmdb"]
    assert main([*arguments, "--labels", "optional"]) == 0
    assert sorted(path.name for path in source.iterdir()) == before
    pairs = zip(
        read_rows([tmp_path / "out/train/data.0000.aselmdb"]), read_rows([source / before[0]]), strict=True
    )
    for (atoms, data), (original, expected) in pairs:
        assert atoms == original
        assert atoms.get_tags().tolist() == original.get_tags().tolist()
        assert sorted(data) == sorted(expected)
        assert all(np.array_equal(data[name], expected[name]) for name in data)


def test_constraints_become_fixed_atoms(tmp_path, capsys):
    """From a database of ASE, and from one of this format, whose rows may have any constraint."""
    originals = frames()
    for atoms in originals:
        atoms.set_constraint([FixScaled([0, 1]), FixBondLengths([[2, 3]]), FixedPlane([4], (0, 0, 1))])
    with ase.db.connect(tmp_path / "mine.aselmdb") as database:
        for atoms in originals:
            database.write(atoms, data=atoms.info)
    arguments = ["convert", str(tmp_path / "mine.aselmdb"), str(tmp_path / "out"), "--format", "aselmdb"]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    number = len(originals)
    assert f"constraints not kept: FixBondLengths ({number} frames), FixedPlane ({number} frames);" in said
    data = AseDatabase({"src": str(tmp_path / "out/train")})
    for index, original in enumerate(originals):
        assert data[index].fixed.nonzero()[:, 0].tolist() == [0, 1]
        assert np.allclose(data[index].forces, original.get_forces(apply_constraint=False), atol=1e-6)


def test_many_rows_go_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("ocp_scn.data.aselmdb._ROWS_OF_A_FILE", 4)
    originals = frames(5, 2)
    with AseLmdbWriter(tmp_path / "out") as writer:
        for number, atoms in enumerate(originals):
            writer.write(atoms, sid=number)
    assert len(list((tmp_path / "out").glob("*.aselmdb"))) == 3
    data = AseDatabase({"src": str(tmp_path / "out")})
    assert [data.get_atoms(i).info["sid"] for i in range(10)] == [str(i) for i in range(10)]


def test_what_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
    """A disk that loses a row is noticed when the data set is completed."""
    with pytest.raises(OSError, match="cannot be read back"), AseLmdbWriter(tmp_path / "out") as writer:
        writer.write(slab(), energy=1.0, sid="a")
        writer.write(slab(1), energy=2.0, sid="b")
        writer._flush()
        writer._database.delete([2])


def test_the_format_of_fairchem_1_needs_fairchem_1(tmp_path, capsys):
    """The command says so in one line; fairchem 2 has packages of the same names."""
    source = tmp_path / "mine.traj"
    write(source, frames())
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", "lmdb"]) == 2
    assert capsys.readouterr().err.startswith("error: --format lmdb needs fairchem-core 1.10: ")


def test_the_energy_may_be_that_of_the_relaxed_structure(sample):
    """IS2RE: fairchem reads no targets but a row's own energy."""
    config = {"src": str(sample / "is2re/train"), "key_mapping": {"energy": "oc20_energy"}}
    data = AseDatabase({**config, "energy_from": "y_relaxed"})
    rows = list(read_rows(sorted((sample / "is2re/train").glob("*.aselmdb"))))
    for index, (_, targets) in enumerate(rows):
        assert float(data[index].oc20_energy) == pytest.approx(targets["y_relaxed"], abs=1e-6)
        assert np.shape(targets["pos_relaxed"]) == (len(data.get_atoms(index)), 3)
    with pytest.raises(InputError, match="row 0 has no 'y_final'"):
        AseDatabase({**config, "energy_from": "y_final"})[0]


def test_a_process_started_afresh_opens_the_database_itself(sample):
    """Workers of several ranks are; fairchem's own data set cannot be sent to one."""
    data = AseDatabase({"src": str(sample / "s2ef/val")})
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for found, expected in zip(loader, data, strict=True):
        assert found.sid == expected.sid
        assert found.pos.equal(expected.pos)


@pytest.mark.parametrize("kind", ["empty", "text", "torn", "pickles"])
def test_a_dead_database_is_named_skipped_and_never_written_to(tmp_path, capsys, kind):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/good.traj", frames())
    dead = tmp_path / "in/dead.aselmdb"
    if kind == "pickles":
        lmdb_of(tmp_path / "other.lmdb", {"sid": 1}).rename(dead)
    elif kind == "torn":
        with AseLmdbWriter(tmp_path / "whole") as writer:
            for seed in range(40):
                writer.write(slab(seed))
        whole = (tmp_path / "whole/data.0000.aselmdb").read_bytes()
        dead.write_bytes(whole[: len(whole) // 2])
    else:
        dead.write_text("" if kind == "empty" else "text")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    arguments = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "aselmdb"]
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "dead.aselmdb' " in line
    assert main([*arguments, "--bad-frames", "skip"]) == 0
    assert "bad: 1 files or frames that cannot be read" in capsys.readouterr().out
    assert len(list(read_rows([tmp_path / "out/train/data.0000.aselmdb"]))) == 6
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


class Evil:
    """Something that a pickle may not bring along."""

    def __reduce__(self):
        return os.system, ("echo broken in >&2",)


def lmdb_of(path: Path, *samples: object) -> Path:
    with lmdb.open(str(path), subdir=False) as environment, environment.begin(write=True) as transaction:
        for index, sample in enumerate(samples):
            transaction.put(str(index).encode(), pickle.dumps(sample, protocol=4))
        transaction.put(b"length", pickle.dumps(len(samples), protocol=4))
    return path


@pytest.mark.parametrize("content", [Evil(), {"pos": Evil()}, [1, 2], {"sid": 1}, np.array([Evil()])])
def test_pickles_of_anything_else_are_refused(tmp_path, capfd, content):
    source = lmdb_of(tmp_path / "data.lmdb", content)
    arguments = ["convert", str(source), str(tmp_path / "out"), "--format", "aselmdb"]
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert "broken in" not in error
    assert "data.lmdb#0 is no sample of fairchem 1" in error
    assert not (tmp_path / "out").exists()


def test_pickles_can_be_refused_altogether(tmp_path, capsys):
    source = lmdb_of(tmp_path / "data.lmdb", {})
    arguments = ["convert", str(source), str(tmp_path / "out"), "--format", "aselmdb", "--no-pickles"]
    assert main(arguments) == 2
    assert "has pickles, and --no-pickles is set" in capsys.readouterr().err


def test_graphs_of_the_first_pytorch_geometric_are_read(tmp_path):
    """They keep their attributes on the object itself, labels under old names, and no boundary conditions."""
    atoms = slab()
    graph = {
        "pos": atoms.positions.astype(np.float32),
        "cell": atoms.cell.array[None].astype(np.float32),
        "atomic_numbers": atoms.numbers.astype(np.float32),
        "tags": atoms.get_tags(),
        "fixed": np.isin(np.arange(len(atoms)), atoms.constraints[0].index).astype(np.float32),
        "y": -1.25,
        "force": np.ones((len(atoms), 3), dtype=np.float32),
        "sid": 7,
        "fid": 3,
        "edge_index": np.zeros((2, 5), dtype=int),
        "norm": None,
    }
    (frame,) = read_frames([lmdb_of(tmp_path / "data.lmdb", graph)])
    assert (frame.sid, frame.fid, frame.energy, frame.targets) == ("7", 3, -1.25, {})
    assert frame.atoms.get_tags().tolist() == atoms.get_tags().tolist()
    assert frame.atoms.constraints[0].index.tolist() == atoms.constraints[0].index.tolist()
    assert frame.atoms.pbc.all()
    assert frame.atoms.numbers.tolist() == atoms.numbers.tolist()
    assert np.array_equal(frame.forces, np.ones((len(atoms), 3)))


def test_a_pickled_single_atom(tmp_path):
    """What holds one number becomes a number, and the atom's number, tag and forces stay arrays."""
    atom = {"pos": np.zeros((1, 3)), "cell": np.eye(3)[None], "atomic_numbers": np.array([8]), "sid": 1}
    more = {
        "tags": np.array([2]),
        "fixed": np.array([1]),
        "forces": np.ones((1, 3)),
        "energy": np.array([2.5]),
    }
    (frame,) = read_frames([lmdb_of(tmp_path / "data.lmdb", atom | more)])
    assert (frame.atoms.numbers.tolist(), frame.atoms.get_tags().tolist()) == ([8], [2])
    assert frame.atoms.constraints[0].index.tolist() == [0]
    assert (frame.sid, frame.fid, frame.energy) == ("1", None, 2.5)
    assert np.array_equal(frame.forces, np.ones((1, 3)))


@needs_fairchem1
@pytest.mark.slow
def test_lmdb_files_of_fairchem_1_keep_everything(tmp_path):
    """What fairchem 1's reader finds in its own files, this line's finds in the converted ones."""
    script = Path(__file__).with_name("fairchem1_data.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([FAIRCHEM1, script, tmp_path], cwd=ROOT, env=environment, check=True, timeout=HANG)
    for task in ("s2ef", "is2re"):
        expected = json.loads((tmp_path / f"{task}.json").read_text())
        assert len(expected) > 1
        out = tmp_path / f"{task}-out"
        labels = ["--labels", "needed" if task == "s2ef" else "optional"]
        source = str(tmp_path / task / "train")
        assert main(["convert", source, str(out), "--format", "aselmdb", *labels]) == 0
        structures, originals = read_structures(out / "train"), read_structures(tmp_path / task / "train")
        assert structures.ids.tolist() == originals.ids.tolist()
        assert np.array_equal(structures.fixed, originals.fixed)
        rows = read_rows(sorted((out / "train").glob("*.aselmdb")))
        for (atoms, targets), sample in zip(rows, expected, strict=True):
            found = {
                **{name: np.asarray(value).tolist() for name, value in targets.items()},
                "pos": atoms.positions.tolist(),
                "cell": atoms.cell.array.tolist(),
                "atomic_numbers": atoms.numbers.tolist(),
                "tags": atoms.get_tags().tolist(),
                "fixed": np.isin(np.arange(len(atoms)), atoms.constraints[0].index).astype(int).tolist(),
                "pbc": atoms.pbc.tolist(),
            }
            if atoms.calc is not None:
                found |= {name: np.asarray(value).tolist() for name, value in atoms.calc.results.items()}
            assert found == sample
