"""Edges between atoms, ranked by distance and split into resolutions; no parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Edges up to this rank (from 0) are near, the others far.
NEAR_NEIGHBORS = 12


@dataclass(frozen=True)
class Graph:
    """Directed edges source -> target, the near ones first.

    Attributes:
        source: (E,) index of the atom that sends.
        target: (E,) index of the atom that receives.
        vec: (E, 3) pos[source] - pos[target] + periodic offset, Å.
        sizes: number of edges of each resolution, near first; sums to E.
    """

    source: Tensor
    target: Tensor
    vec: Tensor
    sizes: tuple[int, ...]


def distance_ranks(distance: Tensor, target: Tensor) -> Tensor:
    """Return each edge's rank (from 0) by distance among the edges of its target.

    Equal distances keep the order of the edges, so ranks never depend on how a sort breaks ties.

    Args:
        distance: (E,) lengths.
        target: (E,) targets, in any order.

    Returns:
        (E,) ranks.
    """
    by_distance = torch.argsort(distance, stable=True)
    order = by_distance[torch.argsort(target[by_distance], stable=True)]
    grouped = target[order]
    position = torch.arange(len(target), device=target.device)
    first = torch.searchsorted(grouped, grouped)  # where each target's group begins
    ranks = torch.empty_like(position)
    ranks[order] = position - first
    return ranks


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

    Returns:
        The graph; within a resolution edges keep their order.
    """
    if num_resolutions == 1 and max_num_neighbors == -1:
        return Graph(source, target, vec, (len(target),))
    rank = distance_ranks(vec.detach().norm(dim=-1), target)
    kept = rank < max_num_neighbors if max_num_neighbors >= 0 else torch.ones_like(rank, dtype=torch.bool)
    near = kept & (rank < NEAR_NEIGHBORS) if num_resolutions == 2 else kept
    groups = [near.nonzero()[:, 0]]
    if num_resolutions == 2:
        groups.append((kept & ~near).nonzero()[:, 0])
    order = torch.cat(groups)
    return Graph(source[order], target[order], vec[order], tuple(len(g) for g in groups))
