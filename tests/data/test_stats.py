"""Numbers of a data set: those that ASE and numpy find, whatever the format, and pictures of them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list

from ocp_scn.data.__main__ import main
from ocp_scn.data.count import count_frames
from ocp_scn.data.frames import find_files
from ocp_scn.data.statistics import Tally
from tests import HANG
from tests.calculations import calculation, write_calculations

ROOT = Path(__file__).parents[2]
Stats = Callable[..., str]


@pytest.fixture
def stats(capsys: pytest.CaptureFixture[str]) -> Stats:
    """Run the command; return the table."""

    def run(*words: object) -> str:
        assert main(["stats", *map(str, words)]) == 0
        return capsys.readouterr().out

    return run


def row(printed: str, name: str) -> list[float]:
    """Return min, median, mean and max of a row of the table."""
    (line,) = re.findall(rf"^{re.escape(name)} +(\S+) +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE)
    return [float(value) for value in line]


def summary(values: object) -> list[float]:
    return [float(f(values)) for f in (np.min, np.median, np.mean, np.max)]


def frames() -> list[Atoms]:
    """Return crystals and molecules, some atoms fixed."""
    found = [calculation(number, periodic=number % 3 > 0) for number in range(31)]
    for number, atoms in enumerate(found[::2]):
        atoms.set_constraint(FixAtoms([0]))
        atoms.info = {"sid": f"s{number % 4}", "fid": number}
    return found


def test_the_numbers_are_those_of_the_frames(stats: Stats, tmp_path: Path) -> None:
    found = frames()
    ase.io.write(tmp_path / "mine.traj", found)
    printed = stats(tmp_path / "mine.traj", "--cutoff", 4, "--max-num-neighbors", 12)
    natoms = [len(atoms) for atoms in found]
    assert f"mine.traj: 31 frames, 5 systems, {sum(natoms)} atoms" in printed
    assert row(printed, "atoms of a frame") == pytest.approx(summary(natoms), rel=1e-4)
    energies = np.array([atoms.get_potential_energy() for atoms in found])
    assert row(printed, "energy [eV]") == pytest.approx(summary(energies), rel=1e-4, abs=1e-5)
    assert row(printed, "energy / atoms [eV]") == pytest.approx(
        summary(energies / natoms), rel=1e-4, abs=1e-5
    )
    counts = np.array([[(atoms.numbers == z).sum() for z in (1, 6, 7, 8, 29, 79)] for atoms in found])
    rest = energies - counts @ np.linalg.lstsq(counts, energies, rcond=None)[0]
    assert row(printed, "energy - references [eV]") == pytest.approx(summary(rest), rel=1e-3, abs=1e-5)
    fixed = [len(atoms.constraints[0].index) if atoms.constraints else 0 for atoms in found]
    assert f"atoms: {sum(natoms) - sum(fixed)} free, {sum(fixed)} fixed" in printed
    forces = [
        np.linalg.norm(atoms.get_forces(apply_constraint=False)[number:], axis=1)
        for atoms, number in zip(found, fixed, strict=True)
    ]
    least, median, mean, largest = row(printed, "force on a free atom [eV/Å]")
    expected = summary(np.concatenate(forces))
    assert (least, mean, largest) == pytest.approx((expected[0], *expected[2:]), rel=1e-4)
    assert median == pytest.approx(expected[1], rel=0.1)
    where = int(np.argmax([of_frame.max() for of_frame in forces]))
    assert f"largest force: {expected[3]:.4g} eV/Å, mine.traj#{where} (" in printed
    neighbors = np.concatenate(
        [np.bincount(neighbor_list("i", atoms, 4.0), minlength=len(atoms)) for atoms in found]
    )
    assert row(printed, "neighbours within 4 Å") == pytest.approx(summary(neighbors), rel=1e-4)
    assert f"{100 * (neighbors > 12).mean():.3g} % of the atoms" in printed
    for symbol, column in zip(("H", "C", "N", "O", "Cu", "Au"), counts.T, strict=True):
        assert re.search(
            rf"^{symbol} +{column.sum()} atoms +{(column > 0).sum()} frames$", printed, re.MULTILINE
        )


def test_every_format_has_the_same_numbers(stats: Stats, tmp_path: Path) -> None:
    found = frames()
    ase.io.write(tmp_path / "a.traj", found)
    columns = [atoms.copy() for atoms in found]
    for atoms, original in zip(columns, found, strict=True):
        atoms.set_array("fixed", np.isin(np.arange(len(atoms)), [0]) & bool(original.constraints))
        atoms.set_constraint()
        atoms.calc = SinglePointCalculator(atoms, **original.calc.results)
    for name in ("a.extxyz", "a.extxyz.gz"):
        ase.io.write(tmp_path / name, columns, format="extxyz")
    with ase.db.connect(tmp_path / "a.db") as database:
        for atoms in found:
            database.write(atoms)
    words = [str(tmp_path / "a.traj"), str(tmp_path / "data"), "--split", "none"]
    assert main(["convert", *words]) == 0
    sources = [tmp_path / name for name in ("a.traj", "a.extxyz", "a.extxyz.gz", "a.db", "data")]
    tables = [stats(source).split("\n\n")[1:3] for source in sources]
    assert all(table == tables[0] for table in tables)
    assert [count_frames(find_files(source)) for source in sources] == [31] * 5


def test_pictures_are_drawn_of_what_there_is(stats: Stats, tmp_path: Path) -> None:
    source = write_calculations(tmp_path / "mine.extxyz", 12)
    everything = {"atoms.png", "elements.png", "neighbours.png", "energies.png", "forces.png"}
    for _ in range(2):  # in a folder that is there, too
        printed = stats(source, "--pictures", tmp_path / "pictures")
        assert {path.name for path in (tmp_path / "pictures").iterdir()} == everything
        assert all(str(tmp_path / "pictures" / name) in printed for name in everything)
        assert all(ase.io.formats.filetype(str(path)) for path in (tmp_path / "pictures").iterdir())
    bare = write_calculations(tmp_path / "bare.extxyz", 3, labels=())
    assert "labels (frames): none" in stats(bare, "--pictures", tmp_path / "few")
    assert {path.name for path in (tmp_path / "few").iterdir()} == everything - {"energies.png", "forces.png"}


def test_what_is_wrong_is_counted_and_named(stats: Stats, tmp_path: Path) -> None:
    found = [calculation(number) for number in range(6)]
    found[2].positions[1] = found[2].positions[0]
    found[3].calc.results["energy"] = np.nan
    for number, atoms in enumerate(found):
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)
        atoms.info = {"sid": "x", "fid": min(number, 4)}
    ase.io.write(tmp_path / "good.traj", found)
    (tmp_path / "empty.traj").touch()
    printed = stats(tmp_path)
    assert "bad: 1 frames, atoms overlap\n" in printed
    assert "bad: 1 frames, not finite: energy\n" in printed
    assert "bad: 1 files or frames that cannot be read\n" in printed
    assert "good.traj#2 (system x, frame 2): atoms overlap" in printed
    assert "4 frames, 1 systems" in printed
    assert "ids that come twice: 1, such as system x, frame 4" in printed


def test_a_source_without_a_good_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.traj").touch()
    assert main(["stats", str(tmp_path / "empty.traj")]) == 2
    assert "has no frame that can be counted" in capsys.readouterr().err
    assert main(["stats", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_terminal_sees_how_much_is_left(tmp_path: Path) -> None:
    """Of 40 frames, which are counted first."""
    write_calculations(tmp_path / "mine.extxyz", 40)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    words = [sys.executable, "-m", "ocp_scn.data", "stats", str(tmp_path / "mine.extxyz")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, timeout=HANG, check=True
    )
    assert "40/40" in os.read(ours, 1 << 16).decode()
    assert b"40 frames" in done.stdout


def test_a_tally_is_what_was_added() -> None:
    rng = np.random.default_rng(0)
    values, tally = rng.integers(0, 50, size=1001), Tally()
    for part in np.array_split(values, 7):
        tally.add(part)
    assert tally.summary() == pytest.approx(summary(values))
    assert dict(Counter(values.tolist())) == {k: c for k, c in enumerate(tally.counts.tolist()) if c}
    assert tally.above(30) == (values > 30).mean()
