"""Both ways to find pairs give the same pairs, and the graph of a batch costs a device two waits."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk as crystal_of
from ase.build import fcc111
from ase.geometry.cell import complete_cell
from ase.neighborlist import neighbor_list
from fairchem.core.common.utils import get_max_neighbors_mask
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_geometric.data import Data

from benchmarks.structures import slabs
from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError, shown
from ocp_scn.fairchem import search
from ocp_scn.fairchem.inputs import check_tensors
from ocp_scn.fairchem.neighbors import batch_graph, find_edges
from ocp_scn.fairchem.pairs import nearest
from ocp_scn.fairchem.search import comparing_all, find_pairs
from ocp_scn.fairchem.systems import Systems
from ocp_scn.graph import build_graph
from tests.structures import batch_of, bulk, molecule, slab, systems_of

CPU = torch.device("cpu")
CONFIG = SCNConfig(otf_graph=True, cutoff=6.0, max_num_neighbors=20)
few_examples = settings(max_examples=60, deadline=None, derandomize=True)


def random_structure(seed: int) -> Atoms:
    """Return 0 to 9 atoms in, or around, a skewed cell of either handedness, periodic in some directions."""
    rng = np.random.default_rng(seed)
    cell = np.zeros((3, 3))
    while abs(np.linalg.det(cell)) < 4:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1.5, 6)
    places = rng.random((rng.integers(0, 10), 3)) * (4 if rng.random() < 0.5 else 1) - rng.integers(0, 2)
    pbc = rng.random(3) < 0.7
    atoms = Atoms("H" * len(places), cell=cell, positions=places @ cell, pbc=pbc)
    if not pbc.any() and rng.random() < 0.5:
        atoms.cell[:] = 0
    return atoms


def both(systems: Systems, radius: float) -> tuple[search.Pairs, search.Pairs]:
    """Return the pairs found by the library and those found by comparing all."""
    found = find_pairs(systems, radius, CPU)
    with comparing_all():
        return found, find_pairs(systems, radius, CPU)


def assert_same(first, second):
    """Assert that two results have the same bits, field by field."""
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert torch.equal(value, other) if torch.is_tensor(value) else np.array_equal(value, other), name
        assert not torch.is_tensor(value) or value.dtype == other.dtype, name


@few_examples
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.floats(2.0, 7.0), st.booleans())
def test_both_ways_give_the_same_pairs(seeds, radius, many_chunks):
    before = search.MAX_PAIRS
    search.MAX_PAIRS = 100 if many_chunks else before
    try:
        assert_same(*both(systems_of(*map(random_structure, seeds)), radius))
    finally:
        search.MAX_PAIRS = before


@few_examples
@given(st.integers(0, 10**6), st.floats(2.0, 5.0))
def test_pairs_are_those_within_the_radius(seed, radius):
    """Found by looking at all images of nearby cells, in float64."""
    systems = systems_of(random_structure(seed))
    pairs, pos, cell = find_pairs(systems, radius, CPU), systems.pos, systems.cell[0]
    volume = abs(np.linalg.det(cell)) or 1.0
    heights = [volume / (np.linalg.norm(np.cross(cell[k - 2], cell[k - 1])) or 1.0) for k in range(3)]
    most = [
        int(np.ceil(radius / h)) + 1 if p else 0 for h, p in zip(heights, systems.periodic[0], strict=True)
    ]
    cells = np.array(list(np.ndindex(*[2 * m + 1 for m in most]))) - most
    distance = np.linalg.norm(pos[:, None, None] - pos[None, :, None] - cells @ cell, axis=-1)
    expected = Counter()
    for target, source, k in np.argwhere((distance <= radius) & (distance > search.MIN_DISTANCE)):
        assert abs(distance[target, source, k] - radius) > 1e-5  # else rounding decides
        expected[(target, source, *cells[k])] += 1
    rows = torch.cat([pairs.target[:, None], pairs.source[:, None], pairs.offset.long()], dim=1).tolist()
    assert Counter(map(tuple, rows)) == expected
    assert rows == sorted(rows)
    assert pairs.counts.tolist() == [sum(row[0] == atom for row in rows) for atom in range(len(pos))]


@few_examples
@given(
    st.integers(0, 10**6),
    st.floats(2.0, 5.0),
    st.sampled_from([1.0, 0.4]),
    st.sampled_from([0.0, 1e3, 1e6, 1e8]),
    st.booleans(),
)
def test_edges_are_those_of_ase(seed, radius, scale, shift, on_device):
    """In tiny, skewed, left-handed and partly periodic cells, of atoms in and out of them, near and far."""
    atoms = random_structure(seed)
    atoms.set_cell(scale * atoms.cell.array, scale_atoms=True)
    shortest = neighbor_list("d", atoms, 0.02)
    assume(len(atoms) > 0 and len(shortest) == 0)
    within = [len(neighbor_list("i", atoms, radius + margin)) for margin in (-1e-4, 1e-4)]
    assume(within[0] == within[1])  # else rounding decides
    i, j, vec = neighbor_list("ijD", atoms, radius)
    expected = np.column_stack([i, j, vec])
    data = Data(
        pos=torch.tensor(atoms.positions + shift * np.array([0.3, -1.0, 0.7])),
        cell=torch.tensor(atoms.cell.array)[None],
        atomic_numbers=torch.tensor(atoms.numbers),
        natoms=torch.tensor([len(atoms)]),
        pbc=torch.tensor(atoms.pbc),
    )
    config = SCNConfig(otf_graph=True, cutoff=radius, max_num_neighbors=-1)
    with comparing_all() if on_device else nullcontext():
        source, target, vec = find_edges(batch_of(data), config)
    found = np.column_stack([target, source, vec])
    assert len(found) == len(expected)
    assert not len(found) or cKDTree(found).query(expected)[0].max() < 1e-9 + 1e-15 * shift * 10


CRYSTALS = {
    "fcc": lambda: crystal_of("Cu"),
    "rock salt": lambda: crystal_of("NaCl", "rocksalt", a=5.64, cubic=True),
    "surface": lambda: fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True),
    "an atom and its near images": lambda: Atoms("H", cell=[0.005, 3, 3], pbc=True),
    "an atom": lambda: Atoms("H"),
    "nothing": Atoms,
    "atoms far apart": lambda: Atoms("H3", [[0, 0, 0], [1, 0, 0], [1e7, 1e7, 0]]),
    # Grids of these have a side that is too short for their number of cells.
    "a wide thin cell": lambda: Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=[4e4, 4e4, 3], pbc=True),
    "a long cell": lambda: Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=[3e7, 3, 3], pbc=True),
    "a wide layer of atoms": lambda: Atoms("H3", [[0, 0, 0], [1, 0, 0], [9e3, 9e3, 0]]),
    "a wide cell with a layer": lambda: Atoms(
        "H2", [[0, 0, 0], [1, 0, 0]], cell=[4e4, 4e4, 9], pbc=(1, 1, 0)
    ),
}


@pytest.mark.parametrize("structure", CRYSTALS.values(), ids=CRYSTALS.keys())
def test_both_ways_give_the_same_pairs_of_crystals(structure):
    assert_same(*both(systems_of(structure(), structure()), 6.0))


@pytest.mark.parametrize("cap", [1, 7, 20, 40])
@pytest.mark.parametrize("structure", ["fcc", "rock salt", "surface"])
def test_the_first_of_equal_distances_are_kept_on_a_gpu(structure, cap):
    pairs = find_pairs(systems_of(CRYSTALS[structure](), CRYSTALS[structure]()), 6.0, CPU)
    kept = nearest(pairs, cap, [len(pairs.counts)], stable=True)
    expected = []
    for atom in range(len(pairs.counts)):
        mine = (pairs.target == atom).nonzero()[:, 0].tolist()
        expected += sorted(sorted(mine, key=lambda k: (float(pairs.distance2[k]), k))[:cap])
    assert kept.tolist() == expected


@pytest.mark.parametrize("cap", [1, 7, 20, 40])
@pytest.mark.parametrize("structure", ["fcc", "rock salt", "surface"])
def test_fairchem_chooses_among_equal_distances_on_a_cpu(structure, cap):
    pairs = find_pairs(systems_of(CRYSTALS[structure]()), 6.0, CPU)
    natoms = torch.tensor([len(pairs.counts)])
    mask, _ = get_max_neighbors_mask(natoms, pairs.target, pairs.distance2, cap, enforce_max_strictly=True)
    assert torch.equal(nearest(pairs, cap, natoms.tolist(), stable=False), mask.nonzero()[:, 0])


@pytest.mark.parametrize("num_resolutions", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cap", [-1, 5, 20])
def test_graphs_have_the_same_bits_both_ways(cap, dtype, num_resolutions):
    """Edges, vectors, order and ranks; so has the graph of find_edges' edges."""
    config = SCNConfig(
        otf_graph=True,
        cutoff=6.0,
        max_num_neighbors=cap,
        num_resolutions=num_resolutions,
        use_pbc_single=True,
    )
    data = batch_of(bulk(7, 0), slab(9, 1), molecule(6, 2), bulk(1, 3), dtype=dtype)
    data.pos += torch.tensor([5.0, -30.0, 11.0])  # outside the cells
    expected = batch_graph(data, config)
    sizes = {"num_resolutions": num_resolutions, "max_num_neighbors": cap}
    assert_same(build_graph(*find_edges(data, config), **sizes), expected)
    with comparing_all():
        assert_same(batch_graph(data, config), expected)


def test_gradients_flow_to_positions_and_cells():
    data = batch_of(bulk(5, 0), slab(4, 1))
    data.pos.requires_grad_()
    data.cell.requires_grad_()
    found = []
    for way in (comparing_all, torch.enable_grad):
        with way():
            vec = batch_graph(data, CONFIG).vec
        found.append(torch.autograd.grad((vec * torch.arange(1, 4)).square().sum(), (data.pos, data.cell)))
    for first, second in zip(*found, strict=True):
        assert first.any()
        assert torch.equal(first, second)


def test_autocast_rounds_no_edge():
    data = batch_of(bulk(7, 0), dtype=torch.float32)
    data.pos += 20.0
    expected = batch_graph(data, CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(batch_graph(data, CONFIG), expected)


def no_position(data):
    data.pos[6, 1] = float("nan")


def no_cell(data):
    data.cell[1, 0, 0] = float("inf")


def no_element(data):
    data.atomic_numbers[6] = 90


def too_far(data):
    data.pos[6, 0] = 3e300


def too_far_for_float32(data):
    data.pos[6, 0] = 1e5
    data.pos, data.cell = data.pos.float(), data.cell.float()


def negative_element(data):
    data.atomic_numbers[6] = -1


def fraction_of_an_element(data):
    data.atomic_numbers = data.atomic_numbers.double()
    data.atomic_numbers[6] = 29.7


def other_sizes(data):
    data.natoms[1] += 1


def no_atoms(data):
    data.natoms = torch.tensor([9, 0, 3])


def other_pbc(data):
    data.pbc = data.pbc.reshape(3, 3)[:, :2]


def other_cell(data):
    data.cell = data.cell[:1]


def too_many_images(data):
    data.cell[1] = torch.diag(torch.tensor([5.0, 1e-3, 1e-3]))


def no_volume(data):
    data.cell[1, 2] = data.cell[1, 0]


def hardly_a_volume(data):
    data.cell[1, 2] = 0.3 * data.cell[1, 0] + 0.7 * data.cell[1, 1]


def no_vector(data):
    data.cell[1, 2] = 0.0


def added_vector(data):
    data.cell[1] = torch.tensor(complete_cell([[5.0, 1.0, 0.5], [0, 0, 0], [0, 0, 0]]))


def at_one_place(data):
    data.pos[8] = data.pos[6] + data.cell[1, 0] + torch.tensor([0.003, -0.004, 0.0])


def at_its_image(data):
    data.cell[1, 0] = torch.tensor([0.005, 0.0, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_position, r"position \[.*nan.*\] in system 1, atom 2; expected finite numbers"),
        (too_far, r"position \[3e\+300, .*\] in system 1, atom 2; expected within 1e\+09 Å of the origin"),
        (too_far_for_float32, r"position \[100000.0, .*\] in system 1, atom 2; expected within 8.4e\+04 Å"),
        (no_cell, r"cell \[\[inf, .*\]\] of system 1; expected finite numbers"),
        (no_element, "atomic number 90 in system 1, atom 2; expected 0..89"),
        (negative_element, "atomic number -1 in system 1, atom 2; expected 0..89"),
        (fraction_of_an_element, "atomic number 29.7 in system 1, atom 2; expected 0..89"),
        (other_sizes, r"natoms=\[4, 6, 3\] sum to 13; expected the 12 atoms of pos"),
        (no_atoms, "system 1 has no atoms; expected at least one"),
        (other_pbc, r"pbc has the shape \(3, 2\); expected \(3, 3\) for 3 systems"),
        (other_cell, r"cell has the shape \(1, 3, 3\); expected \(3, 3, 3\) for 3 systems"),
        (too_many_images, r"system 1: 6.34e\+08 images of the cell \[.*\] are within 6 Å of its 5 atoms"),
        (no_volume, r"cell \[.*\] has no volume, but periodic directions \[True, True, True\]"),
        (no_vector, "system 1: periodic along c without a cell vector"),
        (added_vector, "system 1: periodic along b and c without a cell vector"),
        (hardly_a_volume, r"cell \[.*\] has no volume, but periodic directions"),
        (at_one_place, "system 1, atom 2 and atom 4 are at one place"),
        (at_its_image, "system 1, atom 0 and atom 0 are at one place"),
    ],
)
def test_errors_are_the_same_both_ways(change, message):
    data = batch_of(bulk(4, 0), bulk(5, 1), bulk(3, 2))
    change(data)
    for way in (comparing_all, torch.enable_grad):
        with way(), pytest.raises(InputError, match=message):
            batch_graph(data, CONFIG)


@pytest.mark.parametrize("value", ["abc", np.zeros((2, 2)), [1, "2"], {"a": 1}, None])
@pytest.mark.parametrize("name", ["pos", "cell", "atomic_numbers", "natoms", "pbc", "fixed"])
def test_values_that_are_no_tensors(name, value):
    """Where all samples of a batch have such; torch-geometric batches no others."""
    data = batch_of(bulk(4, 0), bulk(5, 1))
    data[name] = value if value is None or isinstance(value, dict) else [value, value]
    if name in ("pbc", "fixed") and value is None:
        check_tensors(data)
        return
    found = f"no {name}" if value is None else f"{name}={shown(value)}; expected a tensor of numbers"
    with pytest.raises(InputError, match=rf"^system 0 has {re.escape(found)}$"):
        check_tensors(data)


def test_atoms_that_are_only_near_each_other():
    """At 0.015 Å atoms are neighbours, and no error."""
    data = batch_of(molecule(3, 0))
    data.pos[2] = data.pos[0] + torch.tensor([0.015, 0.0, 0.0])
    for way in (comparing_all, torch.enable_grad):
        with way():
            assert batch_graph(data, CONFIG).vec.norm(dim=1).min().item() == pytest.approx(0.015)


def partly_periodic(structure):
    """Return the structure without periodicity along its third cell vector."""
    structure.pbc = torch.tensor([True, True, False])
    return structure


def moved(structure, shift, copies=1):
    """Return the structure far from the origin; of two copies, the first stays."""
    places = [k * shift * torch.tensor([0.3, -1.0, 0.7]) for k in range(2 - copies, 2)]
    structure.pos = torch.cat([structure.pos + place for place in places])
    structure.atomic_numbers = structure.atomic_numbers.repeat(copies)
    structure.natoms *= copies
    return structure


def rows_of(graph):
    """Return edges as rows (target, source, x, y, z), sorted by atoms, then by vectors to 0.001 Å."""
    ends = zip(graph.target.tolist(), graph.source.tolist(), graph.vec.tolist(), strict=True)
    rows = [(t, s, *v) for t, s, v in ends]
    return torch.tensor(sorted(rows, key=lambda row: [round(x, 3) for x in row]), dtype=torch.float64)


FAR = {
    "crystal": (lambda: bulk(9, 0), 1),
    "a cell of 1 Å": (lambda: bulk(1, 3, edge=1.0), 1),
    "periodic along two axes": (lambda: partly_periodic(slab(7, 1)), 1),
    "molecule": (lambda: molecule(16, 2), 1),
    "two molecules far apart": (lambda: molecule(16, 2), 2),
}


@pytest.mark.parametrize("cap", [-1, 8])
@pytest.mark.parametrize("shift", [1e3, 1e6, 3e7, 9e8])
@pytest.mark.parametrize(("structure", "copies"), FAR.values(), ids=FAR.keys())
def test_edges_far_from_the_origin_are_those_near_it(structure, copies, shift, cap):
    """In float64, to what is left of its digits there; other systems of the batch change nothing."""
    config = SCNConfig(otf_graph=True, cutoff=5.0, max_num_neighbors=cap)
    natoms = len(structure().pos)
    for way in (comparing_all, torch.enable_grad):
        with way():
            near = rows_of(batch_graph(batch_of(structure()), config))
            far = rows_of(batch_graph(batch_of(moved(structure(), shift, copies), bulk(3, 1)), config))
        for copy in range(copies):
            mine = far[(far[:, 0] // natoms).long() == copy]
            mine[:, :2] -= copy * natoms
            torch.testing.assert_close(mine, near, rtol=0, atol=1e-12 + 1e-15 * shift)


def test_atoms_many_cells_away_are_where_they_were():
    """3e7 cells, of which float32 has no number; gradients too."""
    data, far = (batch_of(bulk(2, 0, edge=1.5)) for _ in range(2))
    far.pos[1] += torch.tensor([30_000_001.0, -5.0, 17.0]).double() @ far.cell[0]
    for batch in (data, far):
        batch.pos.requires_grad_()
    near, found = (batch_graph(batch, CONFIG) for batch in (data, far))
    torch.testing.assert_close(rows_of(found), rows_of(near), rtol=0, atol=1e-6)
    gradients = [
        torch.autograd.grad(g.vec.square().sum(), b.pos)[0]
        for g, b in zip((near, found), (data, far), strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", [30.0, 1e3, 1e5, 5e6])
def test_atoms_across_the_corner_of_a_large_cell_are_near(edge, dtype):
    """As in a molecule, though some belong to the far side, where float32 cannot tell places apart."""
    free, periodic = molecule(16, 0), molecule(16, 0)
    periodic.pbc = torch.tensor([True, True, True])
    generator = torch.Generator().manual_seed(0)
    skew = torch.rand(3, 3, generator=generator, dtype=torch.float64) / 3
    periodic.cell = edge * (torch.eye(3, dtype=torch.float64) + skew)[None]
    for way in (comparing_all, torch.enable_grad):
        with way():
            known = rows_of(batch_graph(batch_of(free, dtype=dtype), CONFIG))
            found = rows_of(batch_graph(batch_of(periodic, dtype=dtype), CONFIG))
        torch.testing.assert_close(found, known, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cap", [-1, 20])
def test_a_far_skewed_choice_of_cell_changes_no_edge(cap):
    """Images are up to 1e5 Å away in sums of vectors that almost cancel."""
    config = SCNConfig(otf_graph=True, cutoff=5.0, max_num_neighbors=cap)
    other = bulk(5, 0)
    other.cell = torch.tensor([[1.0, 10_000, 0], [0, 1, 0], [0, 2, 1]]).double() @ other.cell
    expected = rows_of(batch_graph(batch_of(bulk(5, 0)), config))
    for way in (comparing_all, torch.enable_grad):
        with way():
            found = rows_of(batch_graph(batch_of(other), config))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


class Operators(TorchDispatchMode):
    """Counts operators that are no views, and those whose result the host waits for on a GPU."""

    WAITING = (
        "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique", "_unique2",
        "bincount", "equal", "histc",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [t for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
        out = func(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in inputs}
        new = [t for t in tree_leaves(out) if torch.is_tensor(t) and t.untyped_storage()._cdata not in known]
        name = func.overloadpacket.__name__
        self.calls[name] += bool(new) or func._schema.is_mutable
        by_mask = name.startswith("index") and any(t.dtype == torch.bool for t in inputs[1:])
        unknown_size = name == "repeat_interleave" and kwargs.get("output_size") is None
        to_host = name == "_to_copy" and kwargs.get("device") == CPU
        self.waits[name] += name in self.WAITING or by_mask or unknown_size or to_host
        return out


@pytest.mark.parametrize("cap", [20, 40, -1])
def test_a_batch_costs_a_device_two_waits(cap):
    """Counted on a CPU; copies to the device are no waits, and no operators here."""
    data = slabs(66, 8)
    config = SCNConfig(otf_graph=True, max_num_neighbors=cap)
    with comparing_all(), Operators() as counted:
        graph = batch_graph(data, config)
    assert graph.sizes[0] == 12 * len(data.pos)
    assert sum(counted.waits.values()) <= 2
    assert sum(counted.calls.values()) <= 80


def test_memory_is_bounded(monkeypatch):
    """No operator of a search makes more than three numbers for each pair that may be compared at once."""
    monkeypatch.setattr(search, "MAX_PAIRS", 20_000)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(out) if torch.is_tensor(t))])
            return out

    systems = systems_of(fcc111("Cu", (5, 5, 4), vacuum=6.0, periodic=True))
    with comparing_all(), Sizes():
        find_pairs(systems, 4.0, CPU)
    assert largest <= 3 * 20_000


def test_a_search_of_fairchem_sees_systems_one_by_one():
    """A search with fairchem's interface gets wrapped float32 positions, and its offsets are corrected."""
    data = batch_of(bulk(4, 0), molecule(3, 1))
    data.pos += 20.0
    data.pos[4:] += 1e7  # the molecule, which is seen near the origin
    seen = []

    def radius_graph(part, radius, cap, enforce_max_neighbors_strictly):
        seen.append(SimpleNamespace(pos=part.pos, pbc=part.pbc.tolist(), natoms=part.natoms.tolist()))
        return torch.tensor([[0, 1], [1, 2]]), torch.zeros(2, 3), torch.tensor([2])

    config = SCNConfig(otf_graph=True, use_pbc_single=True)
    source, target, vec = find_edges(data, config, radius_graph)
    assert [part.natoms for part in seen] == [[4], [3]]
    assert [part.pbc for part in seen] == [[[True] * 3], [[False] * 3]]
    assert (source.tolist(), target.tolist()) == ([0, 1, 4, 5], [1, 2, 5, 6])
    wrapped = torch.cat([part.pos for part in seen])
    assert wrapped.dtype == torch.float32
    assert wrapped.abs().max() < 200
    torch.testing.assert_close(vec, (wrapped[source] - wrapped[target]).double(), rtol=0, atol=1e-5)
