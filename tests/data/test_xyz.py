"""Extended XYZ files: every frame and every number of them is read, or the file is refused."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ocp_scn.data.frames import read_frames
from ocp_scn.data.xyz import read_xyz
from ocp_scn.errors import UnreadableError

NAMES = ("H2O", "NH3", "CH4", "C2H4")
FRAMES = len(NAMES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of frames of different sizes, energies and headers."""
    found = []
    for index in range(FRAMES):
        atoms = molecule(NAMES[index], vacuum=3.0)
        forces = np.random.default_rng(index).normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - index, forces=forces)
        if index % 2:
            atoms.info["note"] = 'a = b, "c = d" and a = e'
            atoms.set_array("held", np.arange(len(atoms)) > 1)
        found.append(atoms)
    write(tmp_path / "mine.extxyz", found)
    return tmp_path / "mine.extxyz"


def energies(path: Path) -> list[float]:
    return [atoms.get_potential_energy() for atoms in read_xyz(path)]


def refusal(path: Path, text: str) -> str:
    """Write a text and return what it is refused with; frames before the fault are read."""
    path.write_text(text)
    with pytest.raises(UnreadableError, match=r"mine\.extxyz' cannot be read") as caught:
        list(read_frames([path]))
    return str(caught.value).split("cannot be read", 1)[1]


def test_frames_with_headers_of_their_own(path):
    assert energies(path) == [-1.0, -2.0, -3.0, -4.0]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n \n\t\n",
        lambda text: text.rstrip("\n"),
    ],
)
def test_ends_of_lines_and_of_files(path, change):
    path.write_text(change(path.read_text()), newline="")
    assert len(energies(path)) == FRAMES


@pytest.mark.parametrize("place", range(FRAMES))
@pytest.mark.parametrize("line", ["", "  ", "the end", "\0", "0x3", "1_0", "-3", "3"])
def test_a_line_before_a_frame(path, place, line):
    lines = path.read_text().splitlines()
    starts = [index for index, text in enumerate(lines) if text.isdigit()]
    lines.insert(starts[place], line)
    refused = refusal(path, "\n".join(lines))
    assert refused.startswith(f" from frame {place} on: " if place else ": ")


@pytest.mark.parametrize("line", ["the end", "\0\0", "3", "3\n\nH 0 0 0", "\nthe end"])
def test_a_line_behind_the_last_frame(path, line):
    assert refusal(path, path.read_text() + line).startswith(f" from frame {FRAMES} on: ")


def test_a_file_that_is_cut_short(path):
    """At every place but the ends of frames, where no one can tell."""
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for count in range(1, len(lines)):
        if not lines[count].strip().isdigit():
            assert "atoms" in refusal(path, "".join(lines[:count]))


@pytest.mark.parametrize("change", [lambda line: line + " 1.0", lambda line: line.rsplit(None, 1)[0]])
def test_a_line_with_more_or_fewer_columns_than_named(path, change):
    lines = path.read_text().splitlines()
    lines[3] = change(lines[3])
    assert "atom 1 has" in refusal(path, "\n".join(lines))


def test_columns_that_no_properties_name(path):
    """Of plain XYZ files the first four columns are read, as ever, and there have to be so many."""
    path.write_text("2\n\nH 0 0 0 0.1\nH 0 0 1 -0.1\n")
    assert [len(atoms) for atoms in read_xyz(path)] == [2]
    assert "atom 1 has 3 columns; expected at least 4" in refusal(path, "2\n\nH 0 0 0\nH 0 0\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("forces:R:3", "forces:L:3", "expected numbers, R or I, not Properties=forces:L:3"),
        ("forces:R:3", "forces:S:3", "expected numbers, R or I, not Properties=forces:S:3"),
        ("forces:R:3", "forces:R", "expected NAME:TYPE:COLUMNS"),
        ("forces:R:3", "forces:R:0", "expected NAME:TYPE:COLUMNS"),
        ("forces:R:3", "forces:R:many", "many"),
        ("energy=-1.0", "energy=-1.0 energy=-2.0", "its comment has energy= 2 times"),
        ("  T  ", "  X  ", "has 'X' in a logical column; expected T or F"),
    ],
)
def test_headers_and_flags(path, old, new, message):
    text = path.read_text()
    assert old in text
    assert message in refusal(path, text.replace(old, new, 1))


@pytest.mark.parametrize("words", ["energy", "energy=T", 'energy="_JSON true"', r'energy="_JSON \"3\""'])
def test_an_energy_that_is_no_number(path, words):
    path.write_text(path.read_text().replace("energy=-1.0", words))
    with pytest.raises(UnreadableError, match=r"mine\.extxyz#0 has energy="):
        list(read_frames([path]))


@pytest.mark.parametrize(("ending", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_compressed_files_of_several_streams(path, ending, pack):
    text = path.read_bytes()
    packed = path.with_name(path.name + ending)
    packed.write_bytes(pack(text) + pack(text) + bytes(8))
    assert len(energies(packed)) == 2 * FRAMES
    damaged = bytearray(pack(text))
    damaged[2] ^= 255
    for tail in (bytes(damaged), b"the end", pack(text)[:-1], pack(text)[:9]):
        packed.write_bytes(pack(text) + tail)
        with pytest.raises(UnreadableError, match="cannot be read: "):
            list(read_frames([packed]))
