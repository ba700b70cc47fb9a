"""Predictions of structures in files: what is written, of which files, what is refused; in either line."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedPlane

import ocp_scn.predict
from ocp_scn import SCNCalculator
from ocp_scn.data.formats import writer
from ocp_scn.predict import Structure, main
from ocp_scn.trained import to_fairchem1
from tests import HANG
from tests.test_calculator import REFERENCES, SMOOTH, slab, trained

FORMAT = "aselmdb" if version("fairchem-core").startswith("2.") else "lmdb"


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """Undo what the command does to the signals of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model with gradient forces and element references."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.save(to_fairchem1(replace(trained(**SMOOTH), references=REFERENCES)), path)
    return path


def calculated(seed: int) -> Atoms:
    """Return a slab with labels, tags and an array of its own."""
    atoms = slab()
    atoms.rattle(0.02, seed=seed)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results, stress=atoms.get_stress())
    atoms.info = {"note": "as it was", "number": 3 + seed}
    atoms.set_array("site", np.arange(len(atoms)) % 3)
    return atoms


def predicted(checkpoint: Path, source: Path, *words: object, out: str = "out.extxyz") -> list[Atoms]:
    """Return what the command writes."""
    target = source.parent / out
    assert main([str(checkpoint), str(source), "-o", str(target), "--device", "cpu", *map(str, words)]) == 0
    return ase.io.read(target, ":")


def refused(checkpoint: Path, source: Path, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one line of a command that ends with status 2 and writes nothing."""
    before = sorted(source.parent.rglob("*"))
    argv = [str(checkpoint), str(source), "-o", str(source.parent / "out.extxyz"), *map(str, words)]
    assert main(argv) == 2
    assert sorted(source.parent.rglob("*")) == before
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_predictions_are_those_of_the_calculator(checkpoint: Path, tmp_path: Path) -> None:
    """In any batches, with references, of all atoms; everything else stays as it was."""
    structures = [calculated(0), molecule("H2O"), bulk("Cu", cubic=True), calculated(1)]
    structures[0].set_constraint(FixAtoms([0, 1, 2]))
    structures[3].set_constraint([FixCartesian([4], [True, False, False]), FixAtoms([0])])
    ase.io.write(tmp_path / "in.traj", structures)
    found = predicted(checkpoint, tmp_path / "in.traj", "--max-atoms", 18, "--dtype", "float64")
    calculator = SCNCalculator(checkpoint, device="cpu", dtype="float64")
    for before, after in zip(structures, found, strict=True):
        (expected,) = calculator.predict([before])
        assert after.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-8)
        forces = after.get_forces(apply_constraint=False)
        np.testing.assert_allclose(forces, expected["forces"], atol=1e-7)
        assert ("stress" in after.calc.results) == ("stress" in expected)
        if "stress" in expected:
            np.testing.assert_allclose(after.get_stress(), expected["stress"], atol=1e-8)
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-7)
        np.testing.assert_allclose(after.cell, before.cell)
        assert (after.numbers == before.numbers).all()
        assert (after.get_tags() == before.get_tags()).all()
        assert (after.pbc == before.pbc).all()
    first, last = found[0], found[3]
    assert [list(c.index) for c in first.constraints] == [[0, 1, 2]]
    mask = np.zeros((len(last), 3), dtype=bool)
    for constraint in last.constraints:
        mask[constraint.index] |= constraint.mask
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [0, 2], [4, 0]]
    assert [atoms.info.get("number") for atoms in found] == [3, None, None, 4]
    assert first.info["note"] == "as it was"
    assert found[1].constraints == found[2].constraints == []


def test_labels_stay_labels(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They get other names, and the errors are those of free atoms; predictions do not become labels."""
    structures = [calculated(seed) for seed in range(3)]
    structures[1].set_constraint([FixAtoms(range(5)), FixedPlane(7, [0, 0, 1])])
    ase.io.write(tmp_path / "in.traj", structures)
    found = predicted(checkpoint, tmp_path / "in.traj")
    energies, forces = [], []
    for before, after in zip(structures, found, strict=True):
        assert after.info["label_energy"] == pytest.approx(before.get_potential_energy())
        labels, free = before.get_forces(apply_constraint=False), np.ones(len(before), dtype=bool)
        np.testing.assert_allclose(after.arrays["label_forces"], labels, atol=1e-7)
        np.testing.assert_allclose(after.info["label_stress"], before.get_stress(), atol=1e-8)
        free[:5] = not before.constraints
        energies.append(abs(after.get_potential_energy() - before.get_potential_energy()) / len(before))
        forces.append((after.get_forces(apply_constraint=False) - labels)[free])
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert float(lines[1][2]) == pytest.approx(np.mean(energies), rel=1e-5)
    assert float(lines[2][2]) == pytest.approx(np.abs(np.concatenate(forces)).mean(), rel=1e-5)
    assert printed.err == "warning: extended XYZ has no constraints of the kind FixedPlane\n"
    again = predicted(checkpoint, tmp_path / "out.extxyz", out="again.extxyz")
    assert [atoms.info["label_energy"] for atoms in again] == [atoms.info["label_energy"] for atoms in found]
    assert capsys.readouterr().out.splitlines()[1:] == printed.out.splitlines()[1:]


@pytest.mark.parametrize("name", ["a.extxyz", "a.extxyz.gz", "a.db", "a.cif", "POSCAR", "a.json"])
def test_files_that_ase_reads(checkpoint: Path, tmp_path: Path, name: str) -> None:
    atoms = calculated(0)
    if name == "a.db":
        with ase.db.connect(tmp_path / name) as database:
            database.write(atoms, origin="here", data={"site": atoms.arrays["site"]})
    else:
        ase.io.write(tmp_path / name, atoms)
    (found,) = predicted(checkpoint, tmp_path / name)
    (expected,) = SCNCalculator(checkpoint, device="cpu").predict([atoms])
    assert found.get_potential_energy() == pytest.approx(expected["energy"], rel=1e-6)
    assert ("label_energy" in found.info) == (name not in ("a.cif", "POSCAR"))
    if name == "a.db":
        assert found.info["origin"] == "here"
        assert (found.info["site"] == atoms.arrays["site"]).all()
    if name == "a.extxyz":
        assert (found.arrays["site"] == atoms.arrays["site"]).all()


def test_data_sets(checkpoint: Path, tmp_path: Path) -> None:
    """Of the line of fairchem that is installed: names and other targets are kept, beside the labels."""
    atoms = calculated(0)
    atoms.wrap()
    with writer(FORMAT)(tmp_path / "data") as data:
        for fid in (4, 9):
            results = {"energy": -3.5, "forces": np.ones((len(atoms), 3))}
            data.write(atoms, sid="Cu", fid=fid, y_relaxed=-4.5, pos_relaxed=atoms.positions + 1, **results)
    found = predicted(checkpoint, tmp_path / "data")
    assert [(one.info["sid"], one.info["fid"]) for one in found] == [("Cu", 4), ("Cu", 9)]
    (expected,) = SCNCalculator(checkpoint, device="cpu").predict([atoms])
    for one in found:
        assert one.get_potential_energy() == pytest.approx(expected["energy"], rel=1e-6)
        assert (one.info["label_energy"], one.info["y_relaxed"]) == (-3.5, -4.5)
        assert (one.arrays["label_forces"] == 1).all()
        np.testing.assert_allclose(one.arrays["pos_relaxed"], atoms.positions + 1, atol=1e-5)


def test_few_structures_are_in_memory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, predict = [], ocp_scn.predict._predict
    others = [thing for thing in gc.get_objects() if type(thing) is Structure]  # of tests before

    def count(*args: object) -> object:
        most.append(sum(type(thing) is Structure for thing in gc.get_objects()) - len(others))
        return predict(*args)

    monkeypatch.setattr(ocp_scn.predict, "_predict", count)
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2O")] * 40)
    assert len(predicted(checkpoint, tmp_path / "in.extxyz", "--max-atoms", 9)) == 40
    assert len(most) == 14
    assert max(most) <= 2 * 3 + 1


def test_refusals(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, source = molecule("H2O"), tmp_path / "in.extxyz"

    def line(*structures: Atoms, words: tuple[object, ...] = ()) -> str:
        ase.io.write(source, structures)
        return refused(checkpoint, source, capsys, *words)

    flat = Atoms("O", cell=[5, 5, 0], pbc=True)
    assert line(good, good, flat).startswith("error: in.extxyz#2: periodic along c without a cell vector")
    heavy = "error: in.extxyz#1: atomic numbers 95 to 95; the model has 0 to 89"
    assert line(good, Atoms("Am")) == heavy
    overlap = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0]])
    assert line(*[good] * 4, overlap).startswith("error: in.extxyz#4: ")
    source.write_text(source.read_text()[:-40])
    assert "in.extxyz' cannot be read from frame 4 on: atom 1 has 2 columns" in refused(
        checkpoint, source, capsys
    )
    assert "nowhere.traj' does not exist" in refused(checkpoint, tmp_path / "nowhere.traj", capsys)
    (tmp_path / "notes.text").write_text("no structure")
    assert "notes.text' cannot be read: ASE finds no structures" in refused(
        checkpoint, tmp_path / "notes.text", capsys
    )
    assert "missing.pt does not exist" in refused(tmp_path / "missing.pt", source, capsys)
    assert "device='nonsense'" in line(good, words=("--device", "nonsense"))
    (tmp_path / "out.extxyz").write_text("mine")
    assert line(good).endswith("out.extxyz' exists; name another file or pass --overwrite")
    assert (tmp_path / "out.extxyz").read_text() == "mine"
    assert len(predicted(checkpoint, source, "--overwrite")) == 1
    argv = [str(checkpoint), str(source), "-o", str(tmp_path / "out.npz")]
    assert main(argv) == 2
    assert "expected a name that ends with .extxyz or .xyz" in capsys.readouterr().err


def test_without_fairchem(checkpoint: Path, tmp_path: Path) -> None:
    """As a command, where neither line is installed nor what only they bring."""
    ase.io.write(tmp_path / "in.extxyz", [calculated(0)])
    program = """
import importlib.metadata, runpy, sys
found = importlib.metadata.version
def version(name):
    if name == "fairchem-core":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
for name in ("fairchem", "torch_geometric", "ase_db_backends", "submitit", "hydra"):
    sys.modules[name] = None
runpy.run_module("ocp_scn.predict", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, checkpoint, "in.extxyz", "-o", "out/out.extxyz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote out/out.extxyz: 1 structures\n  energy MAE: ")
    assert ase.io.read(tmp_path / "out/out.extxyz").calc.results["forces"].shape == (13, 3)
