"""Sources as people have them: names that repeat, labels of other names, dead files, odd samples."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from fairchem.core.datasets import LmdbDataset
from torch_geometric.data import Data

from ocp_scn.data import convert
from ocp_scn.data.__main__ import main
from ocp_scn.data.fixed import fixed_mask
from ocp_scn.data.frames import read_frames
from tests.samples import write_lmdb

STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])  # eV/Å³, in ASE's order xx yy zz yz xz xy
CELL = 5.0  # Å


def frames(count: int = 2, **info: object) -> list[Atoms]:
    """Return water molecules in a box, calculated, with different energies."""
    found = []
    for index in range(count):
        atoms = molecule("H2O")
        atoms.set_cell(3 * [CELL])
        atoms.pbc = True
        atoms.center()
        atoms.rattle(0.02, seed=index)
        forces = np.random.default_rng(index).normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 - index, forces=forces)
        atoms.info.update(info)
        found.append(atoms)
    return found


def relabelled(found: list[Atoms], **extra: object) -> list[Atoms]:
    """Return frames whose labels have names of their own."""
    for atoms in found:
        results, atoms.calc = atoms.calc.results, None
        atoms.info["REF_energy"] = results["energy"]
        atoms.info.update(extra)
        atoms.set_array("dft_forces", results["forces"])
    return found


def samples(folder: Path) -> list[Data]:
    return list(LmdbDataset({"src": str(folder)}))


def ids(folder: Path) -> list[tuple[str, int]]:
    return [(sample.sid, sample.fid) for sample in samples(folder)]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Convert ``tmp_path / "in"`` into ``tmp_path / "out"``; return what was printed, or the one error."""

    def run(*words: str, source: str = "in", status: int = 0) -> str:
        assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), *words]) == status
        printed = capsys.readouterr()
        if status == 0:
            return printed.out
        assert not (tmp_path / "out").exists()
        (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        return line

    (tmp_path / "in").mkdir()
    return run


def test_files_of_one_name_and_names_with_dots_are_systems_of_their_own(run, tmp_path):
    """A fraction of the systems then has a choice, and no prediction hides another."""
    names = ["Cu/relax.extxyz", "Pd/relax.extxyz", "run.1.traj", "run.2.traj", "run.2.1.xyz.gz"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        write(tmp_path / "in" / name, frames())
    run("--split", "none")
    systems = ["Cu/relax", "Pd/relax", "run.1", "run.2.1", "run.2"]
    assert ids(tmp_path / "out/train") == [(sid, fid) for sid in systems for fid in range(2)]


def test_a_file_converted_alone_is_named_without_its_folders(run, tmp_path):
    write(tmp_path / "in/my.run.traj", frames())
    run(source="in/my.run.traj")
    assert ids(tmp_path / "out/train") == [("my.run", 0), ("my.run", 1)]


def test_a_sid_and_fid_that_come_twice_are_refused_skipped_or_told_apart_by_file(run, tmp_path):
    write(tmp_path / "in/a.extxyz", frames(sid="x"))
    write(tmp_path / "in/b.extxyz", frames(3, sid="x"))
    line = run(status=2)
    assert "bad frame b.extxyz#0 (system x, frame 0): an earlier frame has the same sid and fid" in line
    assert "--sids-by-file" in line
    assert "bad: 2 frames, an earlier frame has the same sid and fid" in run("--bad-frames", "skip")
    assert ids(tmp_path / "out/train") == [("x", 0), ("x", 1), ("x", 2)]
    run("--sids-by-file", "--overwrite")
    assert ids(tmp_path / "out/train") == [("a/x", 0), ("a/x", 1), ("b/x", 0), ("b/x", 1), ("b/x", 2)]


def test_ids_that_are_written_alike_are_the_same(run, tmp_path):
    """Files of predictions have SID_FID: system a_1 without a number is frame 1 of system a."""
    write_lmdb(tmp_path / "in", [pickled(sid="a", fid=1), pickled(sid="a_1", fid=None)])
    line = run(status=2)
    assert "data.lmdb#1 (system a_1, frame None): an earlier frame has the same sid and fid" in line


def test_lmdb_files_that_are_each_numbered_from_0(run, tmp_path):
    for name in "ab":
        write_lmdb(tmp_path / "in" / name, [pickled(sid=sid, fid=None) for sid in range(2)])
    assert "bad frame b/data.lmdb#0 (system 0, frame None)" in run(status=2)
    run("--sids-by-file")
    assert [s.sid for s in samples(tmp_path / "out/train")] == [
        "a/data/0",
        "a/data/1",
        "b/data/0",
        "b/data/1",
    ]


def test_lmdb_files_without_sids_give_names_by_file_and_position(run, tmp_path):
    for name in "ab":
        write_lmdb(tmp_path / "in" / name, [pickled(sid=None, fid=None)] * 2)
    run()
    expected = [f"{name}/data-{index}" for name in "ab" for index in range(2)]
    assert [sample.sid for sample in samples(tmp_path / "out/train")] == expected


def test_labels_of_other_names_are_named_and_can_be_read(run, tmp_path):
    originals = frames()
    expected = [dict(atoms.calc.results) for atoms in originals]
    write(tmp_path / "in/mine.extxyz", relabelled(originals, REF_virials=-STRESS * CELL**3, note="bulk"))
    line = run(status=2)
    assert "mine.extxyz#0 (system mine, frame 0): no energy; it has" in line
    assert all(name in line for name in ("REF_energy", "dft_forces", "REF_virials", "--energy-key"))
    assert "no forces" in (line := run("--energy-key", "REF_energy", status=2))
    assert "dft_forces" in line
    keys = ["--energy-key", "REF_energy", "--forces-key", "dft_forces"]
    assert "not taken: REF_virials, note" in run(*keys)
    assert json.loads((tmp_path / "out/conversion.json").read_text())["not_taken"]["REF_virials"] == 2
    assert "not taken: note" in run(*keys, "--stress-key", "REF_virials", "--overwrite")
    for sample, results in zip(samples(tmp_path / "out/train"), expected, strict=True):
        assert sample.energy == results["energy"]
        assert np.allclose(sample.forces, results["forces"], atol=1e-6)
        assert sample.stress.shape == (1, 3, 3)
        assert sample.stress[0, 1, 2] == pytest.approx(STRESS[3])
        assert sample.stress[0, 0].tolist() == pytest.approx([STRESS[0], STRESS[5], STRESS[4]])


def test_a_free_energy_is_taken_only_if_it_is_named(run, tmp_path):
    found = frames()
    for atoms in found:
        results = atoms.calc.results
        atoms.calc = SinglePointCalculator(atoms, free_energy=-20.0, forces=results["forces"])
    write(tmp_path / "in/mine.traj", found)
    assert "no energy; it has free_energy" in run(status=2)
    run("--energy-key", "free_energy")
    assert [sample.energy for sample in samples(tmp_path / "out/train")] == [-20.0, -20.0]


def test_labels_in_the_data_of_a_database(run, tmp_path):
    found = frames()
    with ase.db.connect(tmp_path / "in/mine.db") as database:
        for atoms in found:
            results, atoms.calc = atoms.calc.results, None
            database.write(atoms, data={**results, "stress": STRESS, "fixed": [0, 1, 1]})
    run()
    for index, sample in enumerate(samples(tmp_path / "out/train")):
        assert sample.energy == -14.0 - index
        assert sample.forces.shape == (3, 3)
        assert sample.stress[0, 2, 2] == pytest.approx(STRESS[2])
        assert sample.fixed.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atomic_numbers": torch.tensor([29, 29.7, 8])}, r"atomic_numbers has 29.7"),
        ({"tags": torch.tensor([0, 1.5, 2])}, "tags has 1.5; expected whole numbers"),
        ({"natoms": 4}, "natoms=4, but 3 atomic_numbers"),
        ({"pos": torch.zeros(2, 3)}, "no sample of fairchem 1"),
        ({"pbc": torch.tensor([True, True])}, "no sample of fairchem 1"),
        ({"fixed": torch.tensor([0, 1, 1, 0])}, "fixed=[0, 1, 1, 0] of 3 atoms"),
        ({"pos": torch.full((3, 3), torch.nan)}, "not finite: positions"),
    ],
)
def test_samples_with_values_that_fit_nothing(run, tmp_path, changes, message):
    write_lmdb(tmp_path / "in", [pickled(), pickled(**{"sid": 8} | changes)])
    assert message in run(status=2)
    run("--bad-frames", "skip")
    assert len(samples(tmp_path / "out/train")) == 1


def test_labels_of_other_names_in_samples(run, tmp_path):
    forces = np.ones((3, 3))
    write_lmdb(tmp_path / "in", [pickled(energy=None, forces=None, e_dft=-3.0, f_dft=forces, y_relaxed=-4.0)])
    assert "no energy; it has e_dft, f_dft, y_relaxed" in run(status=2)
    run("--energy-key", "e_dft", "--forces-key", "f_dft")
    (sample,) = samples(tmp_path / "out/train")
    assert (sample.energy, sample.y_relaxed) == (-3.0, -4.0)
    assert sample.forces.tolist() == forces.tolist()


@pytest.mark.parametrize("name", ["virial", "virials"])
def test_a_virial_becomes_a_stress(run, tmp_path, name):
    full = -(CELL**3) * np.array([[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])
    write(tmp_path / "in/mine.extxyz", frames(**{name: full if name == "virial" else full.ravel()}))
    run()
    for sample in samples(tmp_path / "out/train"):
        assert np.allclose(sample.stress[0], -full / CELL**3, atol=1e-8)
        assert name not in sample


def test_a_virial_that_is_no_stress_is_refused(run, tmp_path):
    """Of another sign than the stress beside it, or of a structure without a volume."""
    found = frames(virials=-STRESS * CELL**3)
    for atoms, stress in zip(found, (STRESS, -STRESS), strict=True):
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results, stress=stress)
    write(tmp_path / "in/mine.extxyz", found)
    line = run(status=2)
    assert "mine.extxyz#1 (system mine, frame 1): a stress that is not -virial/volume" in line
    for atoms in found:
        atoms.cell[2] = 0.0
        atoms.pbc = False
        del atoms.calc.results["stress"]
    write(tmp_path / "in/mine.extxyz", found)
    assert "mine.extxyz#0 (system mine, frame 0): a virial without a cell" in run(status=2)
    run("--leave-out", "virial")
    assert not any("stress" in sample for sample in samples(tmp_path / "out/train"))


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("energy", "low"),
        ("energy", "-3.0"),
        ("energy", True),
        ("energy", np.ones(1, dtype=complex)),
        ("forces", [1.0, 2.0]),
        ("forces", torch.ones(3, 3).bool()),
        ("stress", np.ones(5)),
        ("y_relaxed", {}),
        ("pos_relaxed", np.full((3, 3), "1.0")),
    ],
)
def test_a_label_that_is_not_numbers_of_its_shape_is_one_bad_frame(run, tmp_path, label, value):
    good = {"energy": -3.0, "forces": np.zeros((3, 3)), "stress": np.zeros(6), "y_relaxed": -4.0}
    good["pos_relaxed"] = np.zeros((3, 3))
    rows = [pickled(fid=fid, **{**good, **({label: value} if fid == 1 else {})}) for fid in range(3)]
    write_lmdb(tmp_path / "in", rows)
    assert f"data.lmdb#1 has {label}=" in run(status=2)
    assert "bad: 1 files or frames that cannot be read" in run("--bad-frames", "skip")
    assert ids(tmp_path / "out/train") == [("7", 0), ("7", 2)]


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_a_name_that_no_frame_has_is_refused(run, tmp_path, label):
    write(tmp_path / "in/mine.traj", frames())
    line = run(f"--{label}-key", "nothing", "--labels", "optional", status=2)
    assert f"--{label}-key nothing: no frame has anything of that name" in line


def torn_lmdb(path: Path) -> None:
    """Cut a whole file in the middle; reading on would end the process."""
    write_lmdb(path.parent / "whole", [pickled(fid=fid) for fid in range(200)])
    whole = (path.parent / "whole/data.lmdb").read_bytes()
    shutil.rmtree(path.parent / "whole")
    path.write_bytes(whole[: len(whole) // 2])


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


DEAD: dict[str, Callable[[Path], object]] = {
    **{
        f"empty{end}": Path.touch
        for end in (".extxyz", ".xyz.gz", ".extxyz.xz", ".traj", ".db", ".lmdb", ".aselmdb")
    },
    **{
        f"text{end}": lambda path: path.write_text("a note\nof two lines\n")
        for end in (".xyz", ".xyz.gz", ".extxyz.xz", ".traj", ".db", ".lmdb")
    },
    "other.db": other_database,
    "torn.lmdb": torn_lmdb,
    "blank.xyz": lambda path: path.write_text("\n\n"),
    "cut.xyz": lambda path: path.write_text("3\n"),
    "torn.xyz.gz": lambda path: path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(900))[:300]),
    "torn.traj": lambda path: path.write_bytes((path.parent / "good.traj").read_bytes()[:500]),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_file_is_named_skipped_and_never_written_to(run, tmp_path, name):
    write(tmp_path / "in/good.traj", frames())
    (tmp_path / "in/note.txt").write_text("of mine")
    DEAD[name](tmp_path / "in" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    assert name in run(status=2)
    out = run("--bad-frames", "skip")
    assert "bad: 1 files or frames that cannot be read" in out
    assert f"in/{name}' " in out
    assert "not read: 1 files of other kinds, such as" in out
    assert "note.txt" in out
    assert ids(tmp_path / "out/train")[:2] == [("good", 0), ("good", 1)]
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before


def test_frames_after_a_blank_line_are_not_lost(run, tmp_path):
    """ASE stops reading there."""
    write(tmp_path / "in/one.xyz", frames(1), format="extxyz")
    text = (tmp_path / "in/one.xyz").read_text()
    (tmp_path / "in/one.xyz").write_text(f"{text}\n{text}")
    assert "one.xyz' cannot be read from frame 1 on: it goes on after a blank line" in run(status=2)
    (tmp_path / "in/one.xyz").write_text(f"{text}\n\n")
    run()
    assert ids(tmp_path / "out/train") == [("one", 0)]


@pytest.mark.parametrize("content", [b"of mine", b"\xff\xfe\x00", b"a,frame0,low"])
def test_a_text_of_an_oc20_pair_that_is_none(run, tmp_path, content):
    """Without its references the energies would mean something else."""
    for name in ("good", "pair"):
        write(tmp_path / f"in/{name}.extxyz", frames())
    (tmp_path / "in/pair.txt").write_bytes(content)
    assert "in/pair.txt' " in run(status=2)
    assert "bad: 1 files or frames that cannot be read" in run("--bad-frames", "skip")
    assert ids(tmp_path / "out/train") == [("good", 0), ("good", 1)]


@pytest.mark.parametrize(("lines", "error"), [(3, "is cut short: it has 2 frames"), (1, "has no line in")])
def test_an_oc20_pair_of_different_lengths(run, tmp_path, lines, error):
    write(tmp_path / "in/pair.extxyz", frames())
    (tmp_path / "in/pair.txt").write_text("\n".join(f"a,frame{index},-1.5" for index in range(lines)))
    assert error in run(status=2)
    run("--bad-frames", "skip")
    assert ids(tmp_path / "out/train") == [("a", fid) for fid in range(min(lines, 2))]


def test_an_oc20_pair_in_another_order(run, tmp_path):
    """The text names frames by their place alone; frames that name themselves say whether it is theirs."""
    (tmp_path / "in/pair.txt").write_text("a,frame0,-1.5\na,frame1,-1.5\n")
    write(tmp_path / "in/pair.extxyz", [*frames(1, sid="a", fid=0), *frames(1, sid="a", fid=1)])
    run()
    shutil.rmtree(tmp_path / "out")
    write(tmp_path / "in/pair.extxyz", [*frames(1, sid="a", fid=1), *frames(1, sid="a", fid=0)])
    assert "pair.extxyz#0 is the frame of line 2 of its text, not 1" in run(status=2)


def test_two_trajectories_in_one_file(run, tmp_path):
    """ASE reads the first."""
    write(tmp_path / "in/one.traj", frames(3))
    content = (tmp_path / "in/one.traj").read_bytes()
    (tmp_path / "in/one.traj").write_bytes(content + content)
    assert "one.traj' cannot be read: it has a second trajectory behind the first" in run(status=2)


@pytest.mark.parametrize("rules", [["--split", "val=0.1"], ["--split", "val=0.999999"]])
@pytest.mark.parametrize("references", [[], ["--references", "fit"]])
def test_one_system_is_parted_by_frame(run, tmp_path, monkeypatch, rules, references):
    """The message says how, and nothing has been read twice by then."""
    write(tmp_path / "in/mine.traj", frames(40))
    passes = []
    monkeypatch.setattr(
        convert, "read_frames", lambda *args, **kwargs: passes.append(1) or read_frames(*args, **kwargs)
    )
    line = run(*rules, *references, status=2)
    assert "got no frame" in line
    assert "whole systems are taken, of which it has 1; --split-by frame parts them" in line
    assert len(passes) == 1
    if "val=0.1" in rules:
        run(*rules, "--split-by", "frame")
        assert 0 < len(samples(tmp_path / "out/val")) < 20


def test_a_split_by_name_without_frames_says_nothing_of_fractions(run, tmp_path):
    write(tmp_path / "in/mine.traj", frames())
    assert run("--split", "val=sids:other", status=2).endswith("/in'")


def pickled(**changes: object) -> Data:
    """Return a sample of three atoms with some values changed or, if None, left out."""
    atoms = frames(1)[0]
    values = {
        "pos": torch.tensor(atoms.positions).float(),
        "cell": torch.tensor(atoms.cell.array).float()[None],
        "atomic_numbers": torch.tensor(atoms.numbers),
        "natoms": 3,
        "energy": 1.0,
        "forces": torch.zeros(3, 3),
        "sid": 7,
        "fid": 0,
    } | changes
    return Data(**{key: value for key, value in values.items() if value is not None})


FLAGS = [0, 1, 1]
FORMS = {
    "list": FLAGS,
    "tensor": torch.tensor(FLAGS),
    "column": torch.tensor(FLAGS)[:, None],
    "floats": torch.tensor(FLAGS).float(),
    "booleans": torch.tensor(FLAGS).bool(),
    "numpy": np.array(FLAGS),
    "indices": torch.tensor([1, 2]),
    "list of indices": [1, 2],
}


@pytest.mark.parametrize("form", FORMS)
def test_fixed_atoms_in_every_form(run, tmp_path, form):
    write_lmdb(tmp_path / "in", [pickled(fixed=FORMS[form])])
    run()
    assert samples(tmp_path / "out/train")[0].fixed.tolist() == FLAGS


def test_fewer_numbers_than_atoms_are_indices() -> None:
    assert fixed_mask([0, 1], 3).tolist() == [True, True, False]
    assert fixed_mask([0, 1], 2).tolist() == [False, True]
    assert fixed_mask([], 2).tolist() == [False, False]


@pytest.mark.parametrize("fixed", [[0, 3], [-1], [0.5, 1.0, 0.0], ["T", "F", "T"], [[0, 1, 1]] * 2])
def test_fixed_atoms_that_are_neither_flags_nor_indices(run, tmp_path, fixed):
    write_lmdb(tmp_path / "in", [pickled(fixed=fixed)])
    line = run(status=2)
    assert "data.lmdb#0" in line
    assert "fixed=" in line


@pytest.mark.parametrize(
    ("fid", "expected"),
    [
        ("frame3", 3),
        ("3", 3),
        (3.0, 3),
        (np.int64(3), 3),
        (torch.tensor([3]), 3),
        ("last", None),
        (3.5, None),
        (True, None),
    ],
)
def test_numbers_of_frames(run, tmp_path, fid, expected):
    write_lmdb(tmp_path / "in", [pickled(fid=fid)])
    if expected is None:
        assert f"data.lmdb#0 has fid={fid!r}; expected an integer, or 'frame3' for 3" in run(status=2)
    else:
        run()
        assert ids(tmp_path / "out/train") == [("7", expected)]


@pytest.mark.parametrize("sid", [True, [1, 2], float("nan")])
def test_names_of_systems_that_are_none(run, tmp_path, sid):
    write_lmdb(tmp_path / "in", [pickled(sid=sid)])
    assert "data.lmdb#0 has sid=" in run(status=2)


def test_frame_numbers_of_extxyz(run, tmp_path):
    write(tmp_path / "in/mine.extxyz", [*frames(1, fid="frame12"), *frames(1, fid="frame13")])
    run()
    assert ids(tmp_path / "out/train") == [("mine", 12), ("mine", 13)]
