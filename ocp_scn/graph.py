"""Edges between atoms, ranked by distance and split into resolutions; no parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Edges up to this rank (from 0) are near, the others far.
NEAR_NEIGHBORS = 12


@dataclass(frozen=True)
class Graph:
    """Directed edges source -> target, the near ones first; within a resolution sorted by target and length.

    Attributes:
        source: (E,) index of the atom that sends.
        target: (E,) index of the atom that receives.
        vec: (E, 3) pos[source] - pos[target] + periodic offset, Å.
        rank: (E,) number of the edge, from 0, among those of its target and resolution.
        sizes: number of edges of each resolution, near first; sums to E.
        widths: largest number of edges that a target has in each resolution.
    """

    source: Tensor
    target: Tensor
    vec: Tensor
    rank: Tensor
    sizes: tuple[int, ...]
    widths: tuple[int, ...]


def sort_by_target(distance: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sort edges by target, those of a target by distance.

    Equal distances keep the order of the edges, so ranks never depend on how a sort breaks ties.

    Args:
        distance: (E,) lengths.
        target: (E,) targets, in any order.

    Returns:
        (E,) indices that sort the edges, and (E,) the rank (from 0) of each sorted edge among those
        of its target.
    """
    by_distance = torch.argsort(distance, stable=True)
    order = by_distance[torch.argsort(target[by_distance], stable=True)]
    grouped = target[order]
    first = torch.searchsorted(grouped, grouped)  # where each target's group begins
    return order, torch.arange(len(target), device=target.device) - first


def build_graph(
    source: Tensor,
    target: Tensor,
    vec: Tensor,
    *,
    num_resolutions: int,
    max_num_neighbors: int,
) -> Graph:
    """Cap the edges of each target at the nearest, if wanted, and put near edges before far ones.

    Args:
        source: (E,) sending atoms.
        target: (E,) receiving atoms.
        vec: (E, 3) edge vectors, Å.
        num_resolutions: 1 (all edges near) or 2 (ranks 0..11 near, the rest far).
        max_num_neighbors: edges kept for a target; -1 keeps all.
    """
    order, rank = sort_by_target(vec.detach().norm(dim=-1), target)
    kept = rank < max_num_neighbors if max_num_neighbors >= 0 else torch.ones_like(rank, dtype=torch.bool)
    near = kept & (rank < NEAR_NEIGHBORS) if num_resolutions == 2 else kept
    groups = [near.nonzero()[:, 0]]
    if num_resolutions == 2:
        groups.append((kept & ~near).nonzero()[:, 0])
    ranks = [rank[group] - k * NEAR_NEIGHBORS for k, group in enumerate(groups)]
    order = order[torch.cat(groups)]
    return Graph(
        source[order],
        target[order],
        vec[order],
        torch.cat(ranks),
        tuple(len(group) for group in groups),
        tuple(int(r.max()) + 1 if len(r) else 0 for r in ranks),
    )
