"""CIF files: everything in them is read, or they are refused."""

from __future__ import annotations

import bz2
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111

from ocp_scn.data.cif import read_cif
from ocp_scn.data.files import read_structures
from ocp_scn.errors import UnreadableError

ROCK_SALT = """data_global
_journal_name_full 'Acta Crystallographica'
data_I
_chemical_formula_sum 'Cl1 D0.0 Na1'
_cell_length_a 5.64(1)
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 0 0 0 1
Cl1 0.5 0.5 0.5 .
"""


def test_whole_files(tmp_path: Path) -> None:
    """Symmetry is expanded, blocks of text are left out, and ASE's own files are read, also packed ones."""
    path = tmp_path / "a.cif"
    path.write_text(ROCK_SALT.replace(" D0.0", "").replace("Acta", "Acta é"), encoding="latin-1")
    (salt,) = read_structures(path)
    assert str(salt.symbols) == "Na4Cl4"
    slabs = [fcc111("Cu", (2, 2, 3), vacuum=5, periodic=True), bulk("NaCl", "rocksalt", a=5.6)]
    ase.io.write(path, slabs)
    path.with_name("b.cif.bz2").write_bytes(bz2.compress(path.read_bytes()))
    for name in ("a.cif", "b.cif.bz2"):
        found = list(read_structures(tmp_path / name))
        assert [len(atoms) for atoms in found] == [12, 2]
        for atoms, slab in zip(found, slabs, strict=True):
            assert np.allclose(atoms.get_all_distances(mic=True), slab.get_all_distances(mic=True), atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r"Cl1 0.5.*\n", "", "has _chemical_formula_sum 'Cl1 Na1', and its atoms are Na4"),
        (r"'Cl1 Na1'", "'Cl3 Na3'", "has _chemical_formula_sum 'Cl3 Na3', and its atoms are Na4Cl4"),
        (r"0.5 \.", "0.5 0.5", "block 'I' has the occupancy 0.5 at site 1; expected 1"),
        (r"0.5 \.", "0.5 half", "block 'I' has the occupancy half at site 1; expected 1"),
        (r"0.5 \.", "0.5 1 7", "Wrong number 6 of tokens, expected 5"),
        (r"0.5 \.\n", "0.5", "CIF loop ended unexpectedly"),
        (r"(?s)Na1 0 0.*", "", "block 'I' has _chemical_formula_sum and no atoms"),
        (r"_cell_length_b", "_cell_length_d", "positions in a cell, and no _cell_length_b"),
        (r"'F m -3 m'", "'P 1'\n_space_group_IT_number 999", "ASE finds no structures in it"),
        (r"(?s)'F m -3 m'(.*)Cl1 .*", r"'P 1'\1Cl1 0 0 0 1", "block 'I' has 2 sites at 1 places"),
        (r"\A", ROCK_SALT.replace("data_global", "data_first"), "it has more cells than blocks"),
        (r"(?s)\A.*data_I", "text", "it is not what ASE expects of cif"),
    ],
)
def test_faults(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = ROCK_SALT.replace(" D0.0", "")
    path = tmp_path / "a.cif"
    if message == "it has more cells than blocks":
        text, after = text + text.split("data_I")[1], ""
    changed = re.sub(before, after, text, count=1)
    path.write_text(changed)
    with pytest.raises(UnreadableError, match=re.escape(message)) as caught:
        list(read_structures(path))
    assert "\n" not in str(caught.value)


def test_elements_alone_are_counted_too(tmp_path: Path) -> None:
    """A crystal of one element that lacks an atom has the right proportions."""
    path = tmp_path / "a.cif"
    ase.io.write(path, fcc111("Cu", (2, 2, 3), vacuum=5, periodic=True))
    path.write_text("\n".join(path.read_text().rstrip().splitlines()[:-1]))
    with pytest.raises(ValueError, match="_chemical_formula_sum 'Cu12', and its atoms are Cu11"):
        list(read_cif(path))
