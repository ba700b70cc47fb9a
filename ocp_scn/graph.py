"""Edges between atoms, ranked by distance and split into resolutions; no parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Edges up to this rank (from 0) are near, the others far.
NEAR_NEIGHBORS = 12
# Lengths that differ by less are equal: well above rounding, well below differences that mean something, Å.
TIE = 1e-4


@dataclass(frozen=True)
class Graph:
    """Directed edges source -> target, the near ones first; within a resolution sorted by target and length.

    Attributes:
        source: (E,) index of the atom from which the message comes.
        target: (E,) index of the atom that receives the message.
        vec: (E, 3) pos[source] - pos[target] + periodic offset, Å.
        sizes: number of edges of each resolution, near first; sums to E.
    """

    source: Tensor
    target: Tensor
    vec: Tensor
    sizes: tuple[int, ...]


def sort_by_target(distance: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sort edges by target, and the edges of a target by distance.

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
    keep_tied_neighbors: bool = False,
    counts: np.ndarray | None = None,
) -> Graph:
    """Keep the nearest edges of each target, and put near edges before far ones.

    Args:
        source: (E,) source atoms.
        target: (E,) target atoms.
        vec: (E, 3) edge vectors, Å.
        num_resolutions: 1 (all edges near) or 2 (ranks 0..11 near, the rest far).
        max_num_neighbors: edges kept for a target; -1 keeps all.
        keep_tied_neighbors: also keep edges as long as the last one, to `TIE`; near edges likewise.
        counts: (A,) number of edges of each target, if known on the host; then the host need not wait for
            the device, except for ties.
    """
    distance = vec.detach().norm(dim=-1)
    order, rank = sort_by_target(distance, target)
    limit = max_num_neighbors if max_num_neighbors >= 0 else len(rank)
    borders = [limit] if num_resolutions == 1 else [min(NEAR_NEIGHBORS, limit), limit]
    if keep_tied_neighbors:
        rank, counts = _tied_rank(rank, distance[order], borders), None
    below = _below(rank, borders) if counts is None else _below_by_counts(counts, borders)
    resolution = (rank >= borders[0]).int()
    for border in borders[1:]:
        resolution += rank >= border  # the last border's are cut off
    order = order[torch.argsort(resolution, stable=True)[: below[-1]]]
    sizes = tuple(end - begin for begin, end in zip([0, *below], below, strict=False))
    return Graph(source[order], target[order], vec[order], sizes)


def _tied_rank(rank: Tensor, distance: Tensor, borders: list[int]) -> Tensor:
    """Return ranks in which edges beyond a border that are as long as the last one below share its rank.

    Args:
        rank: (E,) by target, then by length.
        distance: (E,) lengths in that order, Å.
        borders: ranks from which on edges belong to another resolution or none.
    """
    index = torch.arange(len(rank), device=rank.device)
    tied = rank
    for border in reversed(borders):  # a tie with the first border prevails
        last = index - (rank - (border - 1)).clamp(min=0)
        tied = torch.where(distance <= distance[last] + TIE, tied.clamp(max=border - 1), tied)
    return tied


def _below(rank: Tensor, borders: list[int]) -> list[int]:
    """Return how many ranks are below each border."""
    return torch.stack([(rank < border).sum() for border in borders]).tolist()


def _below_by_counts(counts: np.ndarray, borders: list[int]) -> list[int]:
    """Return the same as `_below`, from the number of edges of each target."""
    return [int(np.minimum(counts, border).sum()) for border in borders]
