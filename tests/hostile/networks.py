"""Small networks compute hostile structures, and what they return is judged."""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from ase.geometry import complete_cell, minkowski_reduce
from ase.neighborlist import primitive_neighbor_list
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import Batch, Data

from ocp_scn import SphericalChannelNetwork
from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.fairchem.search import MIN_DISTANCE
from ocp_scn.graph import NEAR_NEIGHBORS
from tests.hostile.outcomes import Verdict, under_test, verdict_of
from tests.hostile.sources import SETTINGS
from tests.hostile.structures import Structure
from tests.weights import strengthen

# Forces from a readout with a cap on neighbours and two resolutions, as published; or derivatives, of all.
VARIANTS = (
    {"max_num_neighbors": 20},
    {"direct_forces": False, "max_num_neighbors": -1, "num_resolutions": 1},
)
# Neighbours within the cutoff up to which the right list is made.
_MOST_NEIGHBORS = 400_000
# Distance between the planes of a cell, Å, above which pairs are compared one by one.
_HUGE = 500.0
# Largest error of an edge's vector, Å, and of energies and forces, by precision. A vector may also be off by
# the rounding of the positions, where that is no more than _ROUNDED.
_VECTOR = {torch.float32: 1e-3, torch.float64: 1e-6}
_ENERGY = {torch.float32: 1e-3, torch.float64: 1e-7}
_ROUNDED = 0.02
_EPSILON = float(np.finfo(np.float32).eps)


class Neighbors(NamedTuple):
    """All pairs within a radius: target (E,), source (E,) and vector (E, 3) from target to source, Å."""

    target: np.ndarray
    source: np.ndarray
    vec: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(E,) Å."""
        return np.linalg.norm(self.vec, axis=1)


def networks() -> dict[tuple[torch.dtype, int], SphericalChannelNetwork]:
    """Return the networks by precision and variant."""
    found = {}
    for dtype in _VECTOR:
        torch.set_default_dtype(dtype)
        for k, changes in enumerate(VARIANTS):
            torch.manual_seed(1)
            found[dtype, k] = strengthen(SphericalChannelNetwork(**{**SETTINGS, **changes}).eval())
    torch.set_default_dtype(torch.float32)
    return found


def judge(structure: Structure, network: SphericalChannelNetwork, random: np.random.Generator) -> Verdict:
    """Return the verdict on what a network makes of a structure.

    Args:
        structure: the case.
        network: one of `networks`, of the structure's precision where there is one.
        random: draws the permutation, the shift, and so on, which have to leave the energy as it is.
    """
    data = Batch.from_data_list([structure.data()])
    try:
        with under_test():
            found = network(data)
        source, target, vec = find_edges(data, network.config)
    except InputError as error:
        return _refusal(str(error), structure)
    except Exception as error:  # none of them should be
        return verdict_of(error)
    fault = _output_fault(found, len(structure.pos)) or _accepted_fault(structure)
    if fault:
        return Verdict("silent", fault)
    right = _neighbors(data, network.config.cutoff)
    if right is None:
        return Verdict("unseen", "too many neighbours to be compared")
    pos, cell, _ = _as_given(data)
    margin = _margin(pos, cell, structure.pbc, network.config.cutoff)
    edges = Neighbors(target.numpy(), source.numpy(), vec.detach().double().numpy())
    fault = graph_fault(edges, right, network.config, len(pos), margin, _tolerance(data))
    if fault is None and _is_exact(right, network.config, margin) and _is_near(data):
        fault = _variant_fault(data, network, found, random)
    return Verdict("correct") if fault is None else Verdict("silent", fault)


def graph_fault(
    edges: Neighbors, right: Neighbors, config: SCNConfig, num_atoms: int, margin: float, tolerance: float
) -> str | None:
    """Return how a network's edges differ from those that are right, or None.

    Args:
        edges: the network's.
        right: all pairs up to the cutoff and ``margin`` beyond.
        config: the network's settings.
        num_atoms: A.
        margin: rounding of distances, Å; pairs as near to the cutoff may be edges or not.
        tolerance: of an edge's vector, Å.
    """
    if (right.distance < MIN_DISTANCE - margin).any():
        return "two atoms are at one place"
    rows, wanted = (np.column_stack([pairs.target, pairs.source, pairs.vec]) for pairs in (edges, right))
    cap = config.max_num_neighbors if config.max_num_neighbors > 0 else len(wanted) + 1
    counts = np.bincount(edges.target, minlength=num_atoms)
    inside = np.abs(right.distance - MIN_DISTANCE) > margin
    inside &= right.distance < config.cutoff - margin
    least = np.minimum(np.bincount(right.target[inside], minlength=num_atoms), cap)
    most = np.minimum(np.bincount(right.target, minlength=num_atoms), cap)
    wrong = np.flatnonzero((counts < least) | (counts > most))
    if len(wrong):
        k = wrong[0]
        return f"atom {k} has {counts[k]} edges, not {least[k]} to {most[k]} ({len(wrong)} such atoms)"
    if not len(rows):
        return None
    far, match = cKDTree(wanted).query(rows, distance_upper_bound=tolerance)
    if np.isinf(far).any() or len(np.unique(match)) < len(match):
        return f"{np.isinf(far).sum()} of {len(rows)} edges are of no pair, {len(np.unique(match))} of one"
    for atom in range(num_atoms):
        kept = np.sort(right.distance[match[edges.target == atom]])
        nearest = np.sort(right.distance[right.target == atom])[: len(kept)]
        if len(kept) and np.abs(kept - nearest).max() > margin:
            return f"atom {atom} keeps neighbours that are not the nearest"
    return None


def _refusal(message: str, structure: Structure) -> Verdict:
    if "\n" in message:
        return Verdict("traceback", f"several lines: {message!r}")
    if structure.allowed == "correct":
        return Verdict("needless", message)
    named = re.search(r"\d|\bnan\b|\binf\b", message)
    return Verdict("refused" if named else "unnamed", message)


def _output_fault(found: dict[str, Tensor], num_atoms: int) -> str | None:
    shapes = {"energy": (1,), "forces": (num_atoms, 3)}
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            return f"{name} of shape {tuple(found[name].shape)}, not {shape}"
        if not torch.isfinite(found[name]).all():
            return f"{name} not finite"
    return None


def _accepted_fault(structure: Structure) -> str | None:
    if structure.allowed != "refused":
        return None
    return f"accepted: numbers {np.asarray(structure.numbers).tolist()[:12]}, pbc {structure.pbc}"


def _as_given(data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions (A, 3), cell (3, 3) and periodic directions (3,) of one system, float64."""
    return data.pos.double().numpy(), data.cell[0].double().numpy(), data.pbc.numpy()


def _neighbors(data: Data, cutoff: float) -> Neighbors | None:
    """Return all pairs up to a bit beyond the cutoff, in float64; None where there are too many.

    ASE makes the list, in the reduced cell, where it looks through few images.
    """
    pos, cell, pbc = _as_given(data)
    if not len(pos):
        nothing = np.zeros(0, dtype=int)
        return Neighbors(nothing, nothing, np.zeros((0, 3)))
    margin = _margin(pos, cell, tuple(pbc.tolist()), cutoff)
    cell = complete_cell(np.where(pbc[:, None], cell, 0))
    if pbc.any():
        cell, _ = minkowski_reduce(cell, pbc)
    density = len(pos) / (np.abs(np.linalg.det(cell)) if pbc.all() else np.prod(_lengths(cell)[pbc]))
    if pbc.any() and len(pos) * density * (2 * cutoff) ** pbc.sum() > _MOST_NEIGHBORS:
        return None
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if pbc.any() and heights[pbc].min() > _HUGE:
        return _one_by_one(pos, cell, pbc, cutoff + margin)
    target, source, vec = primitive_neighbor_list("ijD", pbc, cell, pos, cutoff + margin)
    return Neighbors(target, source, vec)


def _one_by_one(pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radius: float) -> Neighbors:
    """Return all pairs within a radius, where it is less than a cell; the numbers of ASE's bins overflow."""
    wrapped = pos - np.where(pbc, np.floor(pos @ np.linalg.inv(cell)), 0) @ cell
    offsets = np.array(list(product(*[(-1, 0, 1) if periodic else (0,) for periodic in pbc])))
    vec = wrapped[None, :, None] - wrapped[:, None, None] + offsets @ cell  # target, source, offset
    near = np.linalg.norm(vec, axis=-1) < radius
    near &= ~np.eye(len(pos), dtype=bool)[:, :, None] | offsets.any(1)
    target, source, _ = near.nonzero()
    return Neighbors(target, source, vec[near])


def _lengths(cell: np.ndarray) -> np.ndarray:
    return np.linalg.norm(cell, axis=1)


def _margin(pos: np.ndarray, cell: np.ndarray, pbc: tuple[bool, ...], cutoff: float) -> float:
    """Return how far float32, in which neighbours are found, may be off, Å; of an atom in the cell."""
    extent = _lengths(cell)[list(pbc)].sum() + (0 if all(pbc) or not len(pos) else np.ptp(pos, axis=0).max())
    return min(8 * _EPSILON * (extent + cutoff), 0.02)


def _tolerance(data: Data) -> float:
    """Return how far the vector of an edge may be off, Å."""
    rounding = (
        4 * torch.finfo(data.pos.dtype).eps * float(data.pos.abs().sum(1).max()) if len(data.pos) else 0
    )
    return max(_VECTOR[data.pos.dtype], min(rounding, _ROUNDED))


def _is_near(data: Data) -> bool:
    """Tell whether moved positions are as exact as the given ones."""
    eps = torch.finfo(data.pos.dtype).eps
    return bool(len(data.pos)) and float(data.pos.abs().max()) * eps < 1e-5


def _is_exact(right: Neighbors, config: SCNConfig, margin: float) -> bool:
    """Tell whether no rounding changes an edge or its resolution: equal distances, or those of the cutoff."""
    distance = right.distance
    if (np.abs(distance - config.cutoff) < 4 * margin).any() or (distance < MIN_DISTANCE + margin).any():
        return False
    borders = {config.max_num_neighbors, NEAR_NEIGHBORS if config.num_resolutions > 1 else -1} - {-1}
    for atom in np.unique(right.target):
        mine = np.sort(distance[right.target == atom])
        if any(k < len(mine) and mine[k] - mine[k - 1] < 4 * margin for k in borders):
            return False
    return True


def _variant_fault(
    data: Data, network: SphericalChannelNetwork, found: dict[str, Tensor], random: np.random.Generator
) -> str | None:
    """Return which change that leaves the structure what it is changes energy or forces, or None."""
    pos, cell, pbc = _as_given(data)
    order, shift = random.permutation(len(pos)), random.normal(size=3)
    # By huge cells, rounding would move atoms, or put them where they are refused.
    cells = random.integers(-2, 3, pos.shape) * (pbc & (np.linalg.norm(cell, axis=1) < _HUGE))
    variants = {
        "the order of the atoms": (pos[order], cell, order),
        "a translation": (pos + shift, cell, None),
        "wrapping": (pos + cells @ np.where(pbc[:, None], cell, 0), cell, None),
        "another choice of the cell": (pos, _other_cell(cell, pbc, random), None),
    }
    copies = []
    for places, vectors, of in variants.values():
        copy = data.get_example(0)
        copy.pos, copy.cell = (
            torch.as_tensor(places).to(data.pos),
            torch.as_tensor(vectors)[None].to(data.cell),
        )
        copy.atomic_numbers = copy.atomic_numbers if of is None else copy.atomic_numbers[torch.as_tensor(of)]
        copies.append(copy)
    try:
        again = network(Batch.from_data_list(copies))
    except InputError:  # of the last one: another choice of the cell may be too skewed to be computed
        variants.popitem()
        again = network(Batch.from_data_list(copies[:-1]))
    scale = float(found["energy"].abs().max() + found["forces"].abs().max()) + len(pos)
    for k, (name, (_, _, of)) in enumerate(variants.items()):
        forces = found["forces"] if of is None else found["forces"][torch.as_tensor(of)]
        error = float((again["energy"][k] - found["energy"][0]).abs())
        error = max(error, float((again["forces"][k * len(pos) : (k + 1) * len(pos)] - forces).abs().max()))
        if error > _ENERGY[data.pos.dtype] * scale:
            return f"{name} changes energy or forces by {error:.2g}"
    return None


def _other_cell(cell: np.ndarray, pbc: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return another cell of the same lattice."""
    other, periodic = cell.copy(), random.permutation(np.flatnonzero(pbc))
    if len(periodic) > 1:
        other[periodic[0]] += random.choice([-1, 1]) * cell[periodic[1]]
    other[periodic[:1]] *= -1
    other[~pbc] *= 2
    return other


def network_of(
    structure: Structure, found: dict[tuple[torch.dtype, int], SphericalChannelNetwork], number: int
) -> SphericalChannelNetwork:
    """Return the network that computes case ``number``."""
    dtype = structure.dtype if structure.dtype in _VECTOR else torch.float32
    return found[dtype, number // 2 % len(VARIANTS)]
