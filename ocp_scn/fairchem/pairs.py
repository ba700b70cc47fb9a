"""Pairs of atoms within a radius, in time proportional to the number of atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ocp_scn.errors import InputError

try:
    from fairchem.core.graph.radius_graph_pbc import get_max_neighbors_mask, radius_graph_pbc
except ImportError:  # fairchem-core 1.10
    from fairchem.core.common.utils import get_max_neighbors_mask, radius_graph_pbc

# fairchem's graph takes two atoms closer than this for one and leaves their edge out, Å.
MIN_DISTANCE = 0.01
# Room for the rounding of float32 when candidates are looked for, Å.
_MARGIN = 1e-2


def radius_graph(
    data: Any, radius: float, max_num_neighbors: int, enforce_max_neighbors_strictly: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what fairchem's ``radius_graph_pbc`` does, edge by edge, without comparing all pairs on a CPU.

    fairchem's time and memory grow with the square of the number of atoms. Here candidates come from a
    k-d tree (Maneewongvatana and Mount 1999, as in scipy); distances, and with them the choice
    among neighbours at almost equal distances, are computed as fairchem does. A GPU has fairchem's search.

    Args:
        data: ``pos`` (A, 3) Å, wrapped into ``cell`` (B, 3, 3) Å, float32; ``natoms`` (B,); ``pbc`` (1, 3).
        radius: of the neighbourhood, Å.
        max_num_neighbors: the nearest ones that an atom keeps; all if not positive.
        enforce_max_neighbors_strictly: keep none of those that are as far as the last one.

    Returns:
        Sources and targets (2, E), cell offsets (E, 3) of the sources, and edges by system (B,).
    """
    strictly = enforce_max_neighbors_strictly
    if data.pos.is_cuda:
        return radius_graph_pbc(data, radius, max_num_neighbors, enforce_max_neighbors_strictly=strictly)
    sources, targets, offsets, distances2, first = [], [], [], [], 0
    for natoms, cell in zip(data.natoms.tolist(), data.cell, strict=True):
        pos = data.pos[first : first + natoms]
        source, target, offset = _candidates(pos, cell, data.pbc[0], radius + _MARGIN)
        distance2 = _distances2(pos, cell, source, target, offset)
        near = (distance2 <= radius * radius) & (distance2 > MIN_DISTANCE**2)
        sources.append(source[near] + first)
        targets.append(target[near] + first)
        offsets.append(offset[near])
        distances2.append(distance2[near])
        first += natoms
    target = torch.cat(targets)
    kept, counts = get_max_neighbors_mask(
        natoms=data.natoms,
        index=target,
        atom_distance=torch.cat(distances2),
        max_num_neighbors_threshold=max_num_neighbors,
        enforce_max_strictly=strictly,
    )
    return torch.stack((torch.cat(sources), target))[:, kept], torch.cat(offsets)[kept], counts


def coinciding_atoms(pos: Tensor, cell: Tensor, periodic: Tensor) -> tuple[int, int] | None:
    """Return two atoms of a system that are closer than :data:`MIN_DISTANCE`, if any; images count.

    Args:
        pos: (A, 3) Å, wrapped into the cell.
        cell: (3, 3) Å.
        periodic: (3,) whether images lie along each cell vector.
    """
    source, target, offset = _candidates(pos, cell, periodic, MIN_DISTANCE)
    other = (source != target) | offset.any(dim=1)
    return (int(target[other][0]), int(source[other][0])) if other.any() else None


def _candidates(pos: Tensor, cell: Tensor, periodic: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return source, target (E',) and offset (E', 3) of all pairs within a radius, in fairchem's order.

    That is by target, source and offset; an atom's pair with itself is among them.
    """
    atoms = pos.double().cpu().numpy()
    if len(atoms) == 0:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, pos.new_zeros(0, 3)
    vectors = cell.double().cpu().numpy()
    if periodic.any() and np.linalg.det(vectors) == 0:
        raise InputError(
            f"cell {vectors.tolist()} has no volume, but periodic directions {periodic.tolist()}"
        )
    cells = _cells(vectors, periodic.cpu().numpy(), radius)  # (U, 3)
    images = (cells @ vectors)[:, None] + atoms  # (U, A, 3)
    reachable = ((images >= atoms.min(0) - radius) & (images <= atoms.max(0) + radius)).all(-1)
    which_cell, source = np.nonzero(reachable)
    tree = cKDTree(images[reachable])
    pairs = cKDTree(atoms).sparse_distance_matrix(tree, radius, output_type="ndarray")
    target, image = pairs["i"], pairs["j"]
    order = np.lexsort((which_cell[image], source[image], target))
    target, image = target[order], image[order]
    offset = torch.from_numpy(cells[which_cell[image]]).to(pos)
    found = [torch.from_numpy(index).to(pos.device) for index in (source[image], target)]
    return found[0], found[1], offset


def _cells(vectors: np.ndarray, periodic: np.ndarray, radius: float) -> np.ndarray:
    """Return the offsets (U, 3) of all cells that a radius around the cell at 0 reaches, in order."""
    ranges = []
    for k in range(3):
        count = 0
        if periodic[k]:
            normal = np.cross(vectors[k - 2], vectors[k - 1])
            count = int(np.ceil(radius * np.linalg.norm(normal) / abs(np.linalg.det(vectors))))
        ranges.append(np.arange(-count, count + 1.0))
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)


def _distances2(pos: Tensor, cell: Tensor, source: Tensor, target: Tensor, offset: Tensor) -> Tensor:
    """Return squared distances (E',), rounded as fairchem's are."""
    moved = pos[source] + (cell.T @ offset.T).T
    return ((pos[target] - moved) ** 2).sum(dim=1)
