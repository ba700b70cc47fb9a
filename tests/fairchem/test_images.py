"""Atoms at one place are found, images included, and so are cells with more images than fit into memory."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list

from ocp_scn.fairchem.images import coincidence, image_atoms, image_fault
from tests.structures import systems_of


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, -1, 2)])
def test_coinciding_atoms_are_found_through_the_cell(shift):
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    atoms.rattle(0.3, seed=0)
    assert not coincidence(systems_of(atoms))
    atoms.append("O")
    atoms.positions[-1] = atoms.positions[5] + [0.004, 0, 0] + shift @ atoms.cell.array
    assert sorted(coincidence(systems_of(atoms))) == [5, len(atoms) - 1]
    atoms.pbc = False
    assert bool(coincidence(systems_of(atoms))) == (shift == (0, 0, 0))


def test_an_atom_coincides_with_its_image_in_a_tiny_cell():
    assert coincidence(systems_of(Atoms("H", cell=[0.005, 3, 3], pbc=True))) == (0, 0)


@pytest.mark.parametrize("distance", [0.01, 0.5, 2.5, 2.7])
def test_atoms_are_near_each_other_at_any_distance(distance):
    """Nearest neighbours in copper are 2.55 Å apart."""
    atoms = bulk("Cu", cubic=True)
    assert bool(coincidence(systems_of(atoms), distance)) == bool(len(neighbor_list("i", atoms, distance)))


FLAT = {
    "small": np.diag([0.04, 0.04, 0.04]),
    "of no substance": np.diag([0.15, 0.15, 0.15]),
    "flat": np.diag([3.0, 3.0, 1e-7]),
    "two flat directions": np.diag([3.0, 1e-3, 1e-3]),
    "hardly a volume": [[3.0, 0, 0], [0, 4, 0], [3 + 1e-6, 4, 1e-5]],
    "skewed far": [[3.0, 0, 0], [3e6, 4, 0], [0, 0, 5]],
}


@pytest.mark.parametrize("cell", FLAT.values(), ids=FLAT.keys())
def test_too_many_images_are_counted_before_there_are_any(cell):
    ordinary = bulk("Cu")
    found = image_fault(systems_of(ordinary, Atoms("H", cell=cell, pbc=True)), 8.0)
    assert found[0] == 1
    assert "images of the cell" in found[1]
    assert "within 8 Å of its 1 atoms" in found[1]


FULL = {
    "1 Å": (Atoms("H", cell=[1, 1, 1], pbc=True), 8.0),
    "1 Å and a large radius": (Atoms("H", cell=[1, 1, 1], pbc=True), 30.0),
    "skewed": (Atoms("H", cell=[[3, 0, 0], [3000, 4, 0], [0, 0, 5]], pbc=True), 8.0),
    "flat, but not periodic there": (Atoms("H", cell=np.diag([3, 3, 1e-7]), pbc=[True, True, False]), 8.0),
    "many atoms": (bulk("Cu", cubic=True).repeat(20), 8.0),
    "a molecule": (Atoms("H2", [[0, 0, 0], [1, 0, 0]]), 8.0),
}


@pytest.mark.parametrize(("atoms", "radius"), FULL.values(), ids=FULL.keys())
def test_cells_that_fit_are_no_fault_and_the_number_is_an_upper_bound(atoms, radius):
    systems = systems_of(atoms)
    assert image_fault(systems, radius) is None
    assert len(image_atoms(systems, radius)[0]) < 2**22
