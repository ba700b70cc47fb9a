"""The pairs of the search make fairchem's radius graph, edge by edge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from fairchem.core.common.utils import get_max_neighbors_mask, radius_graph_pbc
from torch import Tensor

from ocp_scn.errors import InputError
from ocp_scn.fairchem.images import check_images
from ocp_scn.fairchem.search import find_pairs
from ocp_scn.fairchem.systems import check_cells, fetch


def radius_graph(
    data: Any, radius: float, max_num_neighbors: int, enforce_max_neighbors_strictly: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what fairchem's ``radius_graph_pbc`` does, from the pairs of this package's search.

    Returns:
        Sources and targets (2, E), cell offsets (E, 3) of the sources, and edges by system (B,).
    """
    systems, *_ = fetch(data.pos, data.cell, data.natoms, data.pbc.expand(len(data.natoms), 3))
    check_cells(systems)
    check_images(systems, radius)
    pairs = find_pairs(systems, radius, data.pos.device)
    kept, counts = get_max_neighbors_mask(
        natoms=data.natoms,
        index=pairs.target,
        atom_distance=pairs.distance2,
        max_num_neighbors_threshold=max_num_neighbors,
        enforce_max_strictly=enforce_max_neighbors_strictly,
    )
    return torch.stack((pairs.source, pairs.target))[:, kept], pairs.offset[kept], counts


def batch(*structures: Atoms) -> SimpleNamespace:
    """Return what a search reads of structures with one kind of periodicity, wrapped into their cells."""
    for atoms in structures:
        atoms.wrap()
    return SimpleNamespace(
        pos=torch.cat([torch.tensor(atoms.positions, dtype=torch.float32) for atoms in structures]),
        cell=torch.stack([torch.tensor(atoms.cell.array, dtype=torch.float32) for atoms in structures]),
        natoms=torch.tensor([len(atoms) for atoms in structures]),
        pbc=torch.tensor(structures[0].pbc)[None],
    )


def rattled(atoms: Atoms, seed: int = 0, stdev: float = 0.3) -> Atoms:
    """Return a copy with moved atoms."""
    atoms = atoms.copy()
    atoms.rattle(stdev, seed=seed)
    return atoms


def periodic_slab(size: tuple[int, int, int]) -> Atoms:
    """Return a slab that is periodic in all directions, as OC20's are."""
    return fcc111("Cu", size, vacuum=6.0, periodic=True)


def skewed() -> Atoms:
    """Return six atoms in a flat cell whose vectors are far from perpendicular."""
    cell = [[4.0, 0.0, 0.0], [3.0, 3.5, 0.0], [-2.5, 2.0, 5.0]]
    return rattled(Atoms("CuOHCuOH", cell=cell, scaled_positions=[[k / 6, k / 3, 0.1 * k] for k in range(6)]))


def set_pbc(atoms: Atoms, pbc: list[bool]) -> Atoms:
    """Return atoms after setting where they are periodic."""
    atoms.pbc = pbc
    return atoms


CASES = {
    "slab": lambda: batch(rattled(periodic_slab((3, 3, 4)))),
    "ties": lambda: batch(periodic_slab((3, 3, 4))),
    "one atom and its images": lambda: batch(bulk("Cu")),
    "long thin cell": lambda: batch(rattled(bulk("Cu", cubic=True).repeat((1, 1, 9)))),
    "skewed cell": lambda: batch(set_pbc(skewed(), [True] * 3)),
    "periodic in two directions": lambda: batch(set_pbc(skewed(), [True, True, False])),
    "periodic in one direction": lambda: batch(set_pbc(skewed(), [False, True, False])),
    "molecule without a cell": lambda: batch(molecule("CH3CH2OH")),
    "an atom without neighbours": lambda: batch(molecule("H2O"), Atoms("H"), molecule("CO2")),
    "three sizes": lambda: batch(*(rattled(periodic_slab((n, n, 3)), seed=n) for n in (1, 4, 2))),
}


@pytest.mark.parametrize("cap", [-1, 5, 40])
@pytest.mark.parametrize("strictly", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_edges_are_those_of_fairchem_in_its_order(case, cap, strictly):
    data = CASES[case]()
    expected = radius_graph_pbc(data, 6.0, cap, enforce_max_neighbors_strictly=strictly)
    found = radius_graph(data, 6.0, cap, enforce_max_neighbors_strictly=strictly)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("radius", [2.5, 8.0, 12.0])
def test_edges_are_those_of_fairchem_for_any_radius(radius):
    data = batch(rattled(periodic_slab((2, 2, 4)), stdev=0.05))
    for ours, theirs in zip(
        radius_graph(data, radius, 20), radius_graph_pbc(data, radius, 20, True), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_periodic_direction_without_a_cell_vector_is_named():
    data = batch(molecule("H2O"))
    data.pbc[:] = True
    with pytest.raises(InputError, match="system 0: periodic along a and b and c without a cell vector"):
        radius_graph(data, 6.0, 20)
