"""Far structures lose no digits where fairchem 1's samples are made of them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ocp_scn.fairchem.structures import near_origin
from ocp_scn.fairchem.v1.lmdb import to_graph

FAR = np.array([1e7, -3e6, 2.5e7])


def layer(pbc: list[bool]) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True)
    atoms.rattle(0.1, seed=0)
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [molecule("CH3CH2OH"), layer([True, True, False]), layer([True] * 3)],
    ids=["molecule", "slab", "crystal"],
)
def test_samples_far_from_the_origin_have_the_same_vectors(atoms: Atoms) -> None:
    """Through the cell; relaxed positions are moved along."""
    far, relaxed = atoms.copy(), atoms.positions + 0.25
    far.positions += FAR
    near, found = (to_graph(a, pos_relaxed=relaxed + shift) for a, shift in ((atoms, 0), (far, FAR)))
    vectors = [(sample.pos[1:] - sample.pos[:1]).double().numpy() for sample in (near, found)]
    difference = vectors[1] - vectors[0]
    cells = np.round(difference @ np.linalg.inv(near.cell[0].double().numpy())) if atoms.pbc.any() else 0
    shifts = cells @ near.cell[0].double().numpy() if atoms.pbc.any() else 0
    np.testing.assert_allclose(difference, shifts, atol=1e-5)
    np.testing.assert_allclose((found.pos_relaxed - found.pos).numpy(), 0.25, atol=1e-5)
    assert found.pos.abs().max() < 300


def test_only_far_structures_are_moved() -> None:
    near = molecule("H2O")
    assert near_origin(near) is near
    crystal = layer([True] * 3)
    crystal.positions += FAR
    assert near_origin(crystal) is crystal
    far = molecule("H2O")
    far.positions += 1000.0
    far.calc = SinglePointCalculator(far, energy=-1.5)
    moved = near_origin(far)
    assert np.abs(moved.positions).max() < 3
    assert moved.calc.results == {"energy": -1.5}
    assert far.positions.min() > 990
