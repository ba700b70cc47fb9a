"""Conversion of calculations into LMDB data sets, run as a command on small files."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from fairchem.core.datasets import LmdbDataset

from ocp_scn.data import convert
from ocp_scn.data.__main__ import main
from ocp_scn.data.references import LinearReferences, ReferenceFit
from ocp_scn.fairchem.v1.lmdb import LmdbWriter


def frames(systems: int = 4, each: int = 5) -> list[Atoms]:
    """Return calculated copper slabs with a varying number of gold atoms, some atoms fixed."""
    rng = np.random.default_rng(0)
    found = []
    for system in range(systems):
        for fid in range(each):
            atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0, periodic=True)
            atoms.numbers[: system + 1] = 79
            atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 2))
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            atoms.calc = EMT()
            energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
            atoms.info = {"sid": f"sys{system}", "fid": fid}
            found.append(atoms)
    return found


def read(folder: Path) -> list:
    data = LmdbDataset({"src": str(folder)})
    assert np.load(folder / "metadata.npz")["natoms"].tolist() == [d.natoms for d in data]
    return list(data)


def check_same(samples: list, originals: list[Atoms]) -> None:
    assert len(samples) == len(originals)
    for sample, atoms in zip(samples, originals, strict=True):
        assert sample.atomic_numbers.tolist() == atoms.numbers.tolist()
        assert sample.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.allclose(sample.forces, atoms.get_forces(apply_constraint=False), atol=1e-6)
        assert sample.fixed.nonzero()[:, 0].tolist() == atoms.constraints[0].index.tolist()
        assert sample.tags.tolist() == atoms.get_tags().tolist()


@pytest.mark.parametrize("name", ["frames.extxyz", "frames.extxyz.xz", "frames.traj", "frames.db"])
def test_every_format_keeps_energies_forces_tags_and_fixed_atoms(tmp_path: Path, name: str) -> None:
    originals = frames()
    source = tmp_path / name
    if name.endswith(".db"):
        with ase.db.connect(source) as database:
            for atoms in originals:
                database.write(atoms, **atoms.info)
    elif name.endswith(".traj"):
        write(source, originals)
    else:
        text = tmp_path / "plain.xyz"
        for atoms in originals:  # the format has no constraints; a column says the same
            atoms.set_array("fixed", atoms.get_tags() == 2)
        write(text, originals, format="extxyz")
        opener = lzma.open if name.endswith(".xz") else open
        with opener(source, "wt") as packed:
            packed.write(text.read_text())
    assert main(["convert", str(source), str(tmp_path / "out"), "--split", "none"]) == 0
    samples = read(tmp_path / "out/train")
    check_same(samples, originals)
    if not name.endswith(".traj"):
        assert [(s.sid, s.fid) for s in samples] == [(a.info["sid"], a.info["fid"]) for a in originals]


def with_targets(folder: Path, kind: str, originals: list[Atoms]) -> Path:
    """Write frames that have a stress, a relaxed energy and relaxed positions too."""
    rng = np.random.default_rng(1)
    for atoms in originals:
        results = {**atoms.calc.results, "stress": rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["y_relaxed"] = float(rng.normal())
        relaxed = atoms.positions + 0.1
        if kind == "extxyz":
            atoms.set_array("pos_relaxed", relaxed)
        else:
            atoms.info["pos_relaxed"] = relaxed
    path = folder / f"frames.{kind}"
    if kind != "db":
        write(path, originals)
        return path
    with ase.db.connect(path) as database:
        for atoms in originals:
            database.write(atoms, data=atoms.info)
    return path


@pytest.mark.parametrize("kind", ["extxyz", "traj", "db"])
def test_every_format_keeps_stress_and_relaxed_structures(tmp_path: Path, kind: str) -> None:
    originals = frames()
    source = with_targets(tmp_path, kind, originals)
    assert main(["convert", str(source), str(tmp_path / "out"), "--split", "none"]) == 0
    samples = read(tmp_path / "out/train")
    assert len(samples) == len(originals)
    for sample, atoms in zip(samples, originals, strict=True):
        assert sample.y_relaxed == pytest.approx(atoms.info["y_relaxed"], abs=1e-6)
        assert np.allclose(sample.pos_relaxed - sample.pos, 0.1, atol=1e-5)
        assert sample.stress.shape == (1, 3, 3)
        assert np.allclose(sample.stress[0], atoms.get_stress(voigt=False), atol=1e-6)


def test_references_are_subtracted_from_every_energy_where_that_is_asked(tmp_path: Path) -> None:
    source = with_targets(tmp_path, "extxyz", frames(systems=12))
    assert main(["convert", str(source), str(tmp_path / "whole")]) == 0
    assert (
        main(["convert", str(source), str(tmp_path / "rest"), "--references=fit", "--subtract-references"])
        == 0
    )
    references = LinearReferences.load(tmp_path / "whole/references.npz")
    for whole, rest in zip(*(read(tmp_path / name / "train") for name in ("whole", "rest")), strict=True):
        shift = references.energy(whole.atomic_numbers.numpy())
        assert abs(shift) > 1e-3
        assert whole.energy - rest.energy == pytest.approx(shift, abs=1e-6)
        assert whole.y_relaxed - rest.y_relaxed == pytest.approx(shift, abs=1e-6)


def normalizer(folder: Path) -> dict[str, float]:
    return json.loads((folder / "conversion.json").read_text())["normalizer"]["energy"]


def test_calculations_get_references_and_a_mean_of_0_by_themselves(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean would be added once a system, whatever its size."""
    assert main(["convert", str(named), str(tmp_path / "out"), "--split", "val=0.2"]) == 0
    used = f"element_references.energy.file={tmp_path / 'out/references.npz'}"
    assert f"references of Cu, Au: train with --dataset.train.transforms.{used}" in capsys.readouterr().out
    samples = read(tmp_path / "out/train")
    assert {round(s.energy, 6) for s in samples} <= {
        round(atoms.get_potential_energy(), 6) for atoms in frames(systems=12)
    }
    references = LinearReferences.load(tmp_path / "out/references.npz")
    rest = [s.energy - references.energy(s.atomic_numbers.numpy()) for s in samples]
    assert normalizer(tmp_path / "out") == {
        "mean": 0.0,
        "stdev": pytest.approx(np.sqrt(np.mean(np.square(rest)))),
    }
    summary = json.loads((tmp_path / "out/conversion.json").read_text())
    assert summary["references"] == pytest.approx({"Cu": references.coeff[29], "Au": references.coeff[79]})
    assert summary["references_subtracted"] is False


def test_no_references_where_none_are_wanted(named: Path, tmp_path: Path) -> None:
    """On request, and for a data set, whose energies may be adsorption energies."""
    assert main(["convert", str(named), str(tmp_path / "none"), "--references", "none"]) == 0
    assert main(["convert", str(tmp_path / "none/train"), str(tmp_path / "again")]) == 0
    energies = [s.energy for s in read(tmp_path / "none/train")]
    for folder in (tmp_path / "none", tmp_path / "again"):
        assert not (folder / "references.npz").exists()
        assert normalizer(folder)["mean"] == pytest.approx(np.mean(energies))
        assert normalizer(folder)["stdev"] == pytest.approx(np.std(energies))


def test_references_are_fitted_to_more_frames_than_elements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nothing would be left of the energies."""
    write(tmp_path / "two.traj", frames(systems=1, each=2))
    arguments = ["convert", str(tmp_path / "two.traj"), str(tmp_path / "out")]
    assert main([*arguments, "--references", "fit"]) == 2
    assert "2 training frames with an energy for 2 elements; expected more" in capsys.readouterr().err
    assert main(arguments) == 0
    assert not (tmp_path / "out/references.npz").exists()


def test_relaxed_energies_have_references_too(tmp_path: Path) -> None:
    """Of IS2RE, where initial structures have no energy."""
    bare = [atoms.copy() for atoms in frames(systems=3, each=3)]
    for atoms in bare:
        atoms.info["y_relaxed"] = -3.5 * (atoms.numbers == 29).sum() - 3.25 * (atoms.numbers == 79).sum()
    write(tmp_path / "bare.traj", bare)
    assert main(["convert", str(tmp_path / "bare.traj"), str(tmp_path / "out"), "--labels", "optional"]) == 0
    references = LinearReferences.load(tmp_path / "out/references.npz").by_symbol()
    assert references == pytest.approx({"Cu": -3.5, "Au": -3.25})


def test_other_splits_may_have_elements_that_training_lacks(tmp_path: Path) -> None:
    originals = frames(systems=3, each=4)
    for atoms in originals[:4]:
        atoms.numbers[0] = 78
    write(tmp_path / "frames.extxyz", originals)
    rule = ["--split", "test=sids:sys0"]
    assert main(["convert", str(tmp_path / "frames.extxyz"), str(tmp_path / "out"), *rule]) == 0
    assert len(read(tmp_path / "out/test")) == 4
    assert np.load(tmp_path / "out/references.npz")["coeff"][78] == 0  # fairchem adds it as it is
    assert np.isnan(LinearReferences.load(tmp_path / "out/references.npz").coeff[78])


def test_energies_that_float32_does_not_hold_are_refused_unless_references_are_subtracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of all electrons."""
    originals = frames(systems=3, each=4)
    for atoms in originals:
        energy = atoms.calc.results["energy"] - 45000.0 * len(atoms)
        atoms.calc = SinglePointCalculator(atoms, **{**atoms.calc.results, "energy": energy})
    write(tmp_path / "frames.traj", originals)
    arguments = ["convert", str(tmp_path / "frames.traj"), str(tmp_path / "out")]
    assert main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "frames.traj#0 has energy=-35999" in line
    assert "in steps of 0.031 eV" in line
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--references", "fit", "--subtract-references"]) == 0
    assert np.abs([s.energy for s in read(tmp_path / "out/train")]).max() < 10


def test_a_target_of_some_frames_only_is_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fairchem would end in the middle of a training, when it makes a batch of both kinds."""
    with_targets(tmp_path, "extxyz", frames(systems=1))
    write(tmp_path / "more.extxyz", frames(systems=3)[5:])
    arguments = ["convert", str(tmp_path), str(tmp_path / "out"), "--split", "none"]
    assert main(arguments) == 2
    assert "split 'train' has 'y_relaxed' for 5 of its 15 frames only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    names = ("y_relaxed", "pos_relaxed", "stress")
    assert main([*arguments, *(word for name in names for word in ("--leave-out", name))]) == 0
    samples = read(tmp_path / "out/train")
    assert len(samples) == 15
    assert not any(name in sample for name in names for sample in samples)


def test_leaving_out_what_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = with_targets(tmp_path, "extxyz", frames(systems=1))
    assert main(["convert", str(source), str(tmp_path / "out"), "--leave-out", "strss"]) == 2
    assert "--leave-out strss: no frame has a target of that name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("y_relaxed", "low"), ("y_relaxed", {"a": 1}), ("pos_relaxed", [[0.0, 0.0, 0.0]])]
)
def test_a_target_that_is_no_number_or_of_a_wrong_shape_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: object
) -> None:
    (atoms,) = frames(systems=1, each=1)
    with ase.db.connect(tmp_path / "frames.db") as database:
        database.write(atoms, data={name: value})
    assert main(["convert", str(tmp_path / "frames.db"), str(tmp_path / "out")]) == 2
    assert f"frames.db#0 has {name}={value!r}, not numbers of the shape" in capsys.readouterr().err


def test_oc20_pairs_subtract_the_reference_column(tmp_path: Path) -> None:
    originals = frames(systems=2, each=2)
    write(tmp_path / "raw.xyz", originals, format="extxyz")
    (tmp_path / "pairs").mkdir()
    with lzma.open(tmp_path / "pairs/0.extxyz.xz", "wt") as packed:
        packed.write((tmp_path / "raw.xyz").read_text())
    lines = [f"random{i // 2},frame{7 * (i % 2)},{10.0 + i}" for i in range(4)]
    (tmp_path / "pairs/0.txt").write_text("\n".join(lines) + "\n")
    assert main(["convert", str(tmp_path / "pairs"), str(tmp_path / "out")]) == 0
    samples = read(tmp_path / "out/train")
    assert [(s.sid, s.fid) for s in samples] == [
        ("random0", 0),
        ("random0", 7),
        ("random1", 0),
        ("random1", 7),
    ]
    expected = [atoms.get_potential_energy() - 10.0 - i for i, atoms in enumerate(originals)]
    assert np.allclose([s.energy for s in samples], expected)
    assert not (tmp_path / "out/references.npz").exists()  # adsorption energies have none


def test_lmdb_files_are_a_source_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pickled graphs keep everything, are announced, and can be refused."""
    originals = frames(systems=2, each=3)
    with LmdbWriter(tmp_path / "first") as writer:
        for atoms in originals:
            forces = atoms.get_forces(apply_constraint=False)
            moved = atoms.positions + 0.1
            labels = {"energy": atoms.get_potential_energy(), "forces": forces, "pos_relaxed": moved}
            writer.write(atoms, **atoms.info, **labels, y_relaxed=-3.25)
    arguments = ["convert", str(tmp_path / "first"), str(tmp_path / "out")]
    assert main([*arguments, "--no-pickles"]) == 2
    assert "has pickles, and --no-pickles is set" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "reading pickles of fairchem-core 1" in capsys.readouterr().err
    samples, first = read(tmp_path / "out/train"), read(tmp_path / "first")
    check_same(samples, originals)
    for sample, before in zip(samples, first, strict=True):
        assert set(sample.keys()) == set(before.keys())
        assert (sample.sid, sample.fid, sample.y_relaxed) == (before.sid, before.fid, before.y_relaxed)
        assert np.allclose(sample.pos_relaxed, before.pos_relaxed, atol=1e-6)


def test_unlabelled_structures_are_kept_if_wanted(tmp_path: Path) -> None:
    """Test sets have neither energies nor forces."""
    bare = [atoms.copy() for atoms in frames(systems=2, each=1)]
    write(tmp_path / "bare.traj", bare)
    arguments = ["convert", str(tmp_path / "bare.traj"), str(tmp_path / "out")]
    assert main(arguments) == 2
    assert main([*arguments, "--labels", "optional"]) == 0
    samples = read(tmp_path / "out/train")
    assert len(samples) == 2
    assert not any("energy" in sample or "forces" in sample for sample in samples)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "frames.traj"
    write(path, frames())
    return path


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A file that keeps the names of systems and frames."""
    path = tmp_path / "named.extxyz"
    write(path, frames(systems=12), format="extxyz")
    return path


def test_splits(named: Path, tmp_path: Path) -> None:
    rules = ["--split", "held=sids:sys1,sys3", "--split", "val=every:5:2", "--split", "test=0.3"]
    assert main(["convert", str(named), str(tmp_path / "out"), *rules]) == 0
    found = {name: read(tmp_path / "out" / name) for name in ("train", "held", "val", "test")}
    assert sum(map(len, found.values())) == 60
    assert {s.sid for s in found["held"]} == {"sys1", "sys3"}
    assert {s.fid for s in found["val"]} == {2}
    assert not {s.sid for s in found["train"]} & {s.sid for s in found["test"]}
    assert (
        main(["convert", str(named), str(tmp_path / "frames"), "--split", "test=0.3", "--split-by", "frame"])
        == 0
    )
    by_frame = {name: {s.sid for s in read(tmp_path / "frames" / name)} for name in ("train", "test")}
    assert by_frame["train"] & by_frame["test"]


def test_fitted_references_remove_what_composition_explains(named: Path, tmp_path: Path) -> None:
    plain, fitted, again = (tmp_path / name for name in ("plain", "fitted", "again"))
    subtract = ["--subtract-references", "--references"]
    assert main(["convert", str(named), str(plain), "--references", "none"]) == 0
    assert main(["convert", str(named), str(fitted), *subtract, "fit"]) == 0
    assert main(["convert", str(named), str(again), *subtract, str(fitted / "references.npz")]) == 0
    whole, rest, same = ([s.energy for s in read(folder / "train")] for folder in (plain, fitted, again))
    assert np.std(rest) < 0.5 * np.std(whole)
    assert np.allclose(rest, same)
    assert normalizer(fitted)["stdev"] == pytest.approx(np.sqrt(np.mean(np.square(rest))))


def test_reference_fit_recovers_linear_energies() -> None:
    rng = np.random.default_rng(0)
    coeff = rng.normal(size=5)
    fit = ReferenceFit()
    for _ in range(50):
        numbers = rng.integers(1, 5, size=6)
        fit.add(numbers, coeff[numbers].sum())
    found = fit.solve()
    assert np.allclose(found.coeff[1:5], coeff[1:])
    assert np.isnan(found.coeff[5:]).all()


def test_published_files_mark_undefined_references_with_large_numbers(tmp_path: Path) -> None:
    """Those written here say which are defined, since energies of all electrons are large too."""
    np.savez(tmp_path / "published.npz", coeff=[0.0, 2e4])
    assert np.isnan(LinearReferences.load(tmp_path / "published.npz").energy(np.array([1])))
    LinearReferences(np.array([np.nan, -45000.0])).save(tmp_path / "ours.npz")
    ours = LinearReferences.load(tmp_path / "ours.npz")
    assert ours.energy(np.array([1, 1])) == -90000.0
    assert np.isnan(ours.energy(np.array([0])))


def broken(fault: str) -> list[Atoms]:
    """Return frames the third of which has the fault."""
    atoms = frames(systems=1)
    bad = atoms[2]
    results = dict(bad.calc.results)
    if fault == "no forces":
        del results["forces"]
    elif fault == "not finite: energy":
        results["energy"] = np.nan
    elif fault == "not finite: forces":
        results["forces"] = np.full_like(results["forces"], np.nan)
    elif fault == "atoms overlap":
        bad.positions[1] = bad.positions[0] + bad.cell[0] + 0.1
    elif fault == "element 92 is beyond 89":
        bad.numbers[0] = 92
    elif fault == "positions beyond 1e+09 Å":
        bad.positions[0, 1] = 1e300
    elif fault == "no atoms":
        bad = atoms[2] = Atoms(info=bad.info, cell=bad.cell, pbc=True)
        results["forces"] = np.zeros((0, 3))
    elif fault == "periodic along c without a cell vector":
        bad.cell[2] = 0
    elif fault == "periodic along a and b without a cell vector":
        bad.cell[:2] = 0
    bad.calc = SinglePointCalculator(bad, **results)
    return atoms


@pytest.mark.parametrize(
    "fault",
    [
        "no forces",
        "not finite: energy",
        "not finite: forces",
        "atoms overlap",
        "element 92 is beyond 89",
        "positions beyond 1e+09 Å",
        "no atoms",
        "periodic along c without a cell vector",
        "periodic along a and b without a cell vector",
    ],
)
def test_bad_frames_are_refused_or_skipped_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    write(tmp_path / "bad.traj", broken(fault))
    assert main(["convert", str(tmp_path / "bad.traj"), str(tmp_path / "out")]) == 2
    assert f"bad.traj#2 (system sys0, frame 2): {fault}" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))
    command = ["convert", str(tmp_path / "bad.traj"), str(tmp_path / "out"), "--bad-frames", "skip"]
    assert main(command) == 0
    assert f"bad: 1 frames, {fault}" in capsys.readouterr().out
    assert len(read(tmp_path / "out/train")) == 4


@pytest.mark.parametrize("pbc", [(1, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_slabs_wires_and_molecules_need_vectors_only_where_they_are_periodic(
    tmp_path: Path, pbc: tuple[int, int, int]
) -> None:
    originals = frames(systems=1)
    for atoms in originals:
        atoms.pbc = pbc
        atoms.cell = atoms.cell.array * np.array(pbc)[:, None]
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)
    write(tmp_path / "frames.traj", originals)
    assert main(["convert", str(tmp_path / "frames.traj"), str(tmp_path / "out")]) == 0
    assert all(sample.pbc.tolist() == list(map(bool, pbc)) for sample in read(tmp_path / "out/train"))


def test_a_cell_vector_that_fairchem_added_to_a_sample_counts_as_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (atoms,) = frames(systems=1, each=1)
    atoms.cell[2] = 0
    with LmdbWriter(tmp_path / "first") as writer:
        writer.write(atoms, sid=0)
    assert main(["convert", str(tmp_path / "first"), str(tmp_path / "out"), "--labels", "optional"]) == 2
    assert "periodic along c without a cell vector" in capsys.readouterr().err


def test_interruption_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter(range(3))

    def fail_at_third(*args: object) -> None:
        if next(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(convert, "_write", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        main(["convert", str(source), str(tmp_path / "out")])
    assert not list(tmp_path.glob("*out*"))


def test_an_existing_target_is_kept_unless_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "out/mine.txt").read_text() == "kept"
    assert main(["convert", str(source), str(tmp_path / "out"), "--overwrite"]) == 0
    assert not (tmp_path / "out/mine.txt").exists()


def test_a_source_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "nowhere", str(tmp_path / "out")]) == 2
    assert "source 'nowhere' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--split", "val=2", "--split 'val=2'; expected"),
        ("--split", "train=0.1", "'train' is not a new name"),
        ("--split", "val=sids:none", "split 'val' got no frame"),
        ("--references", "nowhere.npz", "'nowhere.npz' is not an npz file"),
        ("--references=none", "--subtract-references", "--subtract-references: there are none"),
    ],
)
def test_bad_options(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    assert main(["convert", str(source), str(tmp_path / "out"), option, value]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_large_structures_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "mixed.traj"
    write(large, [*frames(systems=1), frames(1, 1)[0].repeat((2, 1, 1))])
    assert main(["convert", str(large), str(tmp_path / "out"), "--max-atoms", "8"]) == 0
    assert "left out: 1 frames of more than 8 atoms" in capsys.readouterr().out


OC20 = Path(__file__).parents[3] / "shared" / "data" / "oc20_sample"


@pytest.mark.slow
@pytest.mark.skipif(not OC20.is_dir(), reason=f"no real OC20 data at {OC20}")
def test_real_relaxations(tmp_path: Path) -> None:
    """Published OC20 relaxations convert with published references and none of their frames is bad."""
    rules = ["--split", "held=sids:random1000110", "--split", "val=every:10:5", "--max-atoms", "60"]
    references = ["--references", str(OC20 / "oc20_linref.npz"), "--subtract-references"]
    assert main(["convert", str(OC20), str(tmp_path / "out"), *rules, *references]) == 0
    samples = read(tmp_path / "out/held") + read(tmp_path / "out/val")
    assert {s.sid for s in read(tmp_path / "out/held")} == {"random1000110"}
    assert all(s.natoms <= 60 and s.fixed.any() and (s.tags == 2).any() for s in samples)
    free = np.concatenate([s.forces[s.fixed == 0].numpy().ravel() for s in samples])
    assert 0.03 < np.abs(free).mean() < 0.2  # eV/Å; the whole sample has 0.080
    assert np.std([s.energy for s in samples]) < 50  # eV; hundreds without references
