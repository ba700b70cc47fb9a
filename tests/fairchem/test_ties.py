"""With ``keep_tied_neighbors`` equal distances at the cap change nothing: order, place, turn or cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, make_supercell, molecule
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch, Data

from ocp_scn import SphericalChannelNetwork
from ocp_scn.config import SCNConfig
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.fairchem.search import comparing_all
from tests.structures import batch_of, slab
from tests.structures import molecule as molecule_of
from tests.weights import strengthen

SETTINGS = {"cutoff": 6.0, "otf_graph": True, "max_num_neighbors": 20, "keep_tied_neighbors": True}
CONFIG = SCNConfig(**SETTINGS)
# Exactly equivariant: coefficients turn exactly for mmax 0 and a plain sum, and so do Gauss points' readouts.
SMALL = {
    "lmax": 2,
    "mmax": 0,
    "use_grid": False,
    "num_interactions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 5,
    "hidden_channels": 12,
    "num_basis_functions": 7,
    "distance_resolution": 0.5,
    "sphere_quadrature": "gauss",
    "num_sphere_samples": 2 * 24**2,
}


def in_a_box(name: str) -> Atoms:
    """Return a molecule of ASE's in a periodic box."""
    atoms = molecule(name, vacuum=3.0)
    atoms.pbc = True
    return atoms


def sheet() -> Atoms:
    """Return graphene in a cell, periodic along it."""
    atoms = graphene(vacuum=6.0)
    atoms.pbc = [True, True, False]
    return atoms


# Equal distances at the twentieth or the twelfth neighbour; in simple cubic also at the cutoff.
STRUCTURES = {
    "fcc": lambda: bulk("Cu", a=3.6),
    "bcc": lambda: bulk("Fe", a=2.87),
    "simple cubic": lambda: bulk("Po", "sc", a=3.0),
    "rocksalt": lambda: bulk("NaCl", "rocksalt", a=5.0),
    "graphene": sheet,
    "slab": lambda: fcc111("Pt", (1, 1, 3), a=3.92, vacuum=6.0, periodic=True),
    "molecule in a box": lambda: in_a_box("C60"),
}
structures = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
TURN = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()


def permuted(atoms: Atoms) -> Atoms:
    return atoms.repeat((2, 1, 1))[np.random.default_rng(0).permutation(2 * len(atoms))]


def translated(atoms: Atoms) -> Atoms:
    atoms.translate([0.3717, -11.23, 5.019])
    return atoms


def turned(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array @ TURN.T)
    atoms.positions = atoms.positions @ TURN.T
    return atoms


def larger(atoms: Atoms) -> Atoms:
    return atoms.repeat((2, 1, 1))


def skewed(atoms: Atoms) -> Atoms:
    return make_supercell(atoms, [[1, 2, 0], [0, 1, 0], [0, 0, 1]], wrap=True)


def skewed_and_larger(atoms: Atoms) -> Atoms:
    return make_supercell(atoms, [[1, 1, 0], [-1, 2, 0], [0, 0, 1]], wrap=True)


CHANGES = [permuted, translated, turned, larger, skewed, skewed_and_larger]
changes = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def data_of(atoms: Atoms) -> Batch:
    """Return a batch of one structure in float64."""
    structure = Data(
        pos=torch.tensor(atoms.positions),
        cell=torch.tensor(atoms.cell.array)[None],
        atomic_numbers=torch.tensor(atoms.numbers),
        natoms=torch.tensor([len(atoms)]),
        pbc=torch.tensor(atoms.pbc),
    )
    return batch_of(structure)


def surroundings(atoms: Atoms, config: SCNConfig) -> list[np.ndarray]:
    """Return for each atom its element and the rows (1 if near, element, x, y, z) of its edges."""
    data = data_of(atoms)
    graph = batch_graph(data, config)
    near = torch.arange(len(graph.source)) < graph.sizes[0]
    rows = torch.cat([torch.stack([near, data.atomic_numbers[graph.source]], dim=1), graph.vec], dim=1)
    return [
        np.concatenate([[[2, z, 0, 0, 0]], rows[graph.target == k].numpy()])
        for k, z in enumerate(atoms.numbers)
    ]


def each_is_in(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Return whether every set of rows of the first list is one of the second's, in any order."""
    return all(any(same_rows(rows, others) for others in second) for rows in first)


def same_rows(rows: np.ndarray, others: np.ndarray) -> bool:
    return len(rows) == len(others) and bool((cKDTree(rows).query(others)[0] < 1e-6).all())


@structures
@changes
def test_every_atom_has_the_same_edges(structure, change):
    before, after = structure(), change(structure())
    for way in (comparing_all, torch.enable_grad):
        with way():
            expected, found = surroundings(before, CONFIG), surroundings(after, CONFIG)
        if change is turned:
            expected = [np.hstack([rows[:, :2], rows[:, 2:] @ TURN.T]) for rows in expected]
        assert each_is_in(found, expected)
        assert each_is_in(expected, found)


@structures
def test_the_cap_cuts_ties(structure):
    """Without the option a tie at the cap, or at the border between resolutions, is cut."""
    cut, kept = (
        batch_graph(data_of(structure()), SCNConfig(**SETTINGS | {"keep_tied_neighbors": keep}))
        for keep in (False, True)
    )
    assert kept.sizes != cut.sizes


@structures
@changes
def test_energies_and_forces_are_the_same(structure, change):
    """Of a network that is exactly equivariant, in float64; a larger cell has as many times the energy."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = strengthen(SphericalChannelNetwork(**SMALL | SETTINGS).eval())
    before, after = structure(), change(structure())
    times = len(after) / len(before)
    with torch.no_grad():
        expected, found = model(data_of(before)), model(data_of(after))
    torch.testing.assert_close(found["energy"], times * expected["energy"], rtol=1e-9, atol=0)
    lengths = [out["forces"].norm(dim=1).sort().values for out in (found, expected)]
    largest = float(lengths[1].max()) + 1e-3
    torch.testing.assert_close(
        lengths[0], lengths[1].repeat_interleave(int(times)), rtol=0, atol=1e-8 * largest
    )


def test_nothing_changes_where_no_distances_are_equal():
    data = batch_of(slab(9, 0), molecule_of(16, 1))
    cut, kept = (
        batch_graph(data, SCNConfig(**SETTINGS | {"keep_tied_neighbors": keep, "max_num_neighbors": 13}))
        for keep in (False, True)
    )
    assert cut.sizes == kept.sizes
    assert torch.equal(cut.source, kept.source)
    assert torch.equal(cut.vec, kept.vec)
