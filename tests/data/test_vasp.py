"""POSCAR and XDATCAR files: everything that they declare is read, or they are refused."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from ocp_scn.data.files import read_structures
from ocp_scn.errors import UnreadableError


def structure(shift: float = 0.0) -> Atoms:
    places = [[0.1, 0.2, 0.3], [0.5, 0.5, 0.1], [0.6, 0.1, 0.7 + shift]]
    atoms = Atoms("Cu2O", scaled_positions=places, cell=[4, 5, 6], pbc=True)
    atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.fixture
def poscar(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "POSCAR", structure(), direct=True)
    return tmp_path / "POSCAR"


@pytest.fixture
def xdatcar(tmp_path: Path) -> Path:
    """Of two frames under one header; newer versions of ASE write one for each frame."""
    path = tmp_path / "XDATCAR"
    ase.io.write(path, [structure(), structure(0.05)])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:11], *lines[-4:]]))
    return path


def test_whole_files(poscar: Path, xdatcar: Path) -> None:
    """With any comment, blank lines at the end, velocities, no elements, a header before each frame."""
    text = "in Å: " + poscar.read_text().rstrip()
    for more in ("\n", "\n\n \n", "\n\n" + "  0.1  0.0  0.0\n" * 3):
        poscar.write_text(text + more, encoding="utf-8")
        (atoms,) = read_structures(poscar)
        assert np.allclose(atoms.positions, structure().positions)
        assert atoms.constraints[0].index.tolist() == [0]
        assert atoms.has("momenta") == ("0.1" in more)
    lines = text.splitlines()
    poscar.write_text("\n".join(["Cu O", *lines[1:5], *lines[6:]]))
    (atoms,) = read_structures(poscar)
    assert str(atoms.symbols) == "Cu2O"
    frames = list(read_structures(xdatcar))
    assert [atoms.positions[2, 2] for atoms in frames] == pytest.approx([4.2, 4.5])
    lines = xdatcar.read_text().splitlines()
    xdatcar.write_text("\n".join([*lines[:11], *lines[:7], *lines[11:]]) + "\n\n")
    assert len(list(read_structures(xdatcar))) == 2


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r"(?s)  0.6\S+ .*", "", "it is cut short: its last 3 atoms have 2 lines"),
        (r"(?s)(  0.6\S+) .*", r"\1", "expected three numbers and three flags, T or F"),
        (r"Selective.*\n", "", "expected three numbers, and no flags"),
        (r"F   F   F", "F   F   ?", "expected three numbers and three flags, T or F"),
        (r" 2   1", " 1000000000   1", "it declares 1000000001 atoms, and has no more than "),
        (r" 2   1", " 3   -1", "expected counts of atoms"),
        (r" 2   1", " 0   0", "expected counts of atoms"),
        (r" 2   1", " 3", "it has the elements 'Cu O', and the counts '3'"),
        (r" 2   1", " 1   1", "it declares 2 atoms, and line 12 has the place of another"),
        (r"(?s)\n   2   1.*", "", "it is cut short: it has 6 lines"),
    ],
)
def test_faults_of_poscar(poscar: Path, before: str, after: str, message: str) -> None:
    refused(poscar, before, after, message)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r"(?s)\n\S+ configuration= +2.*", "\nDirect configuration= 2", "its last 3 atoms have 0 lines"),
        (r"\S+ configuration= +2", "Direct konfiguration= 2", "expected 'Direct configuration='"),
        (r"\S+ configuration= +1\n", "", "expected 'Direct configuration='"),
        (r"\n(?=\S+ configuration= +2)", "\n\n", "line 12 is ''; expected 'Direct configuration='"),
        (r" 2 ( +)1\n", r" 10000000000 1\n", "it declares 10000000001 atoms, and has no more than "),
        (r" 2 ( +)1\n", " 1 1\n", "expected 'Direct configuration='"),
        (r"0.60000000  0.10000000  0.75000000", "0.6", "expected three numbers, and no flags"),
    ],
)
def test_faults_of_xdatcar(xdatcar: Path, before: str, after: str, message: str) -> None:
    refused(xdatcar, before, after, message)


def refused(path: Path, before: str, after: str, message: str) -> None:
    text = path.read_text()
    changed = re.sub(before, after, text, count=1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(UnreadableError, match=re.escape(message)) as caught:
        list(read_structures(path))
    assert "\n" not in str(caught.value)
