"""Which atoms are neighbours: the choice that fairchem's search makes among pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocp_scn.fairchem.images import check_images
from ocp_scn.fairchem.search import Pairs, find_pairs, true_indices
from ocp_scn.fairchem.systems import check_cells, fetch, to_device


def radius_graph(
    data: Any, radius: float, max_num_neighbors: int, enforce_max_neighbors_strictly: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what fairchem's ``radius_graph_pbc`` does, edge by edge, without comparing all pairs on a CPU.

    Distances, and with them the choice among neighbours at almost equal distances, are computed as
    fairchem does; of neighbours at equal distances beyond the cap the first ones are kept.

    Args:
        data: ``pos`` (A, 3) Å, wrapped into ``cell`` (B, 3, 3) Å, float32; ``natoms`` (B,); ``pbc``
            (1, 3) or (B, 3).
        radius: of the neighbourhood, Å.
        max_num_neighbors: the nearest ones that an atom keeps; all if not positive.
        enforce_max_neighbors_strictly: keep none of those that are as far as the last one.

    Returns:
        Sources and targets (2, E), cell offsets (E, 3) of the sources, and edges by system (B,).

    Raises:
        InputError: for a periodic cell that lacks a vector, has no volume or too many images.
    """
    try:  # here: the calculator does without fairchem
        from fairchem.core.graph.radius_graph_pbc import get_max_neighbors_mask  # noqa: PLC0415
    except ImportError:  # fairchem-core 1.10
        from fairchem.core.common.utils import get_max_neighbors_mask  # noqa: PLC0415

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


def nearest(pairs: Pairs, max_num_neighbors: int, groups: Sequence[int], *, stable: bool) -> Tensor:
    """Return the indices of the pairs that a strict cap leaves, in their order.

    Args:
        pairs: all within the radius.
        max_num_neighbors: pairs that a target keeps; all if not positive.
        groups: numbers of atoms that fairchem would search together.
        stable: keep the first ones of pairs at equal float32 distances, as fairchem does on GPUs. On CPUs
            it leaves the choice to torch's sort, whose choice depends on the group's largest number of
            pairs; False chooses likewise.
    """
    atoms = np.cumsum([0, *groups])
    edges = np.concatenate([[0], np.cumsum(pairs.counts)])[atoms]
    kept = []
    for first, last, begin, end in zip(atoms, atoms[1:], edges, edges[1:], strict=False):
        target, distance2 = pairs.target[begin:end], pairs.distance2[begin:end]
        if len(groups) == 1:
            return _nearest(target, distance2, pairs.counts, max_num_neighbors, stable)
        counts = pairs.counts[first:last]
        kept.append(_nearest(target - first, distance2, counts, max_num_neighbors, stable) + begin)
    return torch.cat(kept)


def _nearest(target: Tensor, distance2: Tensor, counts: np.ndarray, cap: int, stable: bool) -> Tensor:
    """Return :func:`nearest` of one group, whose atoms count from 0."""
    width, device = int(counts.max(initial=0)), target.device
    index = torch.arange(len(target), device=device)
    if not 0 < cap < width:
        return index
    first = to_device(np.cumsum(counts) - counts, device)
    place = index - first[target]  # among its target's pairs
    table = distance2.new_full((len(counts), width), torch.inf)
    table[target, place] = distance2
    order = table.sort(dim=1, stable=stable).indices
    kept = torch.zeros_like(table, dtype=torch.bool).scatter_(1, order[:, :cap], True)
    return true_indices(kept[target, place], int(np.minimum(counts, cap).sum()))
