"""Which atoms are neighbours: the choice that fairchem's search makes among pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ocp_scn.fairchem.search import Pairs, true_indices
from ocp_scn.fairchem.systems import to_device


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
    """Return `nearest` of one group, whose atoms count from 0."""
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
