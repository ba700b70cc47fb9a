"""Edges in groups that end at a range of atoms, and signals between atoms and edge frames.

Edges are sorted by target, so that turning a target's signal into the frames of all its edges is one
matrix product, and so is turning messages back and summing them: the sum over edges is part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ocp_scn.graph import Graph


class EdgeGroup(NamedTuple):
    """Edges of one resolution that end at a range of atoms.

    Attributes:
        atoms: the range of targets, A' atoms.
        edges: the range of the graph's edges, E'.
        source: (E',) atoms that send.
        slots: (E',) place of each edge among A' x n, n places for each atom; None if edges fill
            all places in order.
        rows: (A' n, S, K) Wigner rows by place, zero where there is no edge.
        rows_back: the same times the envelope of the messages.
    """

    atoms: slice
    edges: slice
    source: Tensor
    slots: Tensor | None
    rows: Tensor
    rows_back: Tensor


def to_edge_frames(x: Tensor, rows: Tensor, group: EdgeGroup) -> tuple[Tensor, Tensor]:
    """Turn the signals of both ends into the edge frames and keep some orders.

    Args:
        x: (A, K, C) signals of all atoms.
        rows: ``group.rows``.
        group: the edges.

    Returns:
        (E', S, C) for the sources, and the same for the targets.
    """
    targets = x[group.atoms]
    places, kept, size = rows.shape  # A' n, S, K
    at_target = torch.bmm(rows.view(len(targets), -1, size), targets).view(places, kept, x.shape[-1])
    if group.slots is not None:
        at_target, rows = _gather(at_target, group.slots), _gather(rows, group.slots)
    return torch.bmm(rows, _gather(x, group.source)), at_target


def sum_at_targets(values: Tensor, rows_back: Tensor, group: EdgeGroup) -> Tensor:
    """Turn messages (E', S, C) back into the global frame and sum them at their targets: (A', K, C)."""
    places, kept, size = rows_back.shape
    channels = values.shape[-1]
    if group.slots is not None:
        values = values.new_zeros(places, kept, channels).index_copy(0, group.slots, values)
    num_atoms = group.atoms.stop - group.atoms.start
    stacked = rows_back.view(num_atoms, -1, size).mT  # (A', K, n S)
    return torch.bmm(stacked, values.view(num_atoms, -1, channels))


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index]; as an embedding it is several times faster on a CPU than by other means."""
    if len(index) == 0:  # of which torch cannot take second derivatives
        return values[:0]
    return embedding(index, values.flatten(1)).view(len(index), *values.shape[1:])


def group_edges(
    graph: Graph,
    rows: list[Tensor],
    envelope: Tensor | None,
    *,
    num_atoms: int,
    max_edges: list[int],
) -> list[list[EdgeGroup]]:
    """Split the edges of each resolution into groups of a bounded size.

    Args:
        graph: the edges.
        rows: dense Wigner rows (E_r, S_r, K_r) of each resolution.
        envelope: (E,) factors of the messages; 1 if None.
        num_atoms: A.
        max_edges: for each resolution, how many edges a group may have unless one atom has more.
    """
    groups, first = [], 0
    for r, (size, width) in enumerate(zip(graph.sizes, graph.widths, strict=True)):
        width = max(width, 1)  # noqa: PLW2901  # an atom without edges has one empty place
        target = graph.target[first : first + size]
        slots = None if size == num_atoms * width else target * width + graph.rank[first : first + size]
        back = None if envelope is None else envelope[first : first + size, None, None] * rows[r]
        step = max(1, max_edges[r] // width)
        of_resolution = []
        for atoms, edges in _ranges(target, num_atoms, step):
            placed = _by_place(rows[r][edges], slots, edges, atoms, width)
            of_resolution.append(
                EdgeGroup(
                    atoms,
                    slice(first + edges.start, first + edges.stop),
                    graph.source[first + edges.start : first + edges.stop],
                    None if slots is None else slots[edges] - atoms.start * width,
                    placed,
                    placed if back is None else _by_place(back[edges], slots, edges, atoms, width),
                )
            )
        groups.append(of_resolution)
        first += size
    return groups


def _ranges(target: Tensor, num_atoms: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of ``step`` atoms and of the edges, sorted by target, that end there."""
    if num_atoms <= step:
        yield slice(0, num_atoms), slice(0, len(target))
        return
    starts = [*range(0, num_atoms, step), num_atoms]
    borders = torch.searchsorted(target, torch.tensor(starts, device=target.device)).tolist()
    for k in range(len(starts) - 1):
        yield slice(starts[k], starts[k + 1]), slice(borders[k], borders[k + 1])


def _by_place(rows: Tensor, slots: Tensor | None, edges: slice, atoms: slice, width: int) -> Tensor:
    """Put the rows of each edge in its place, zeros elsewhere."""
    if slots is None:
        return rows
    places = (atoms.stop - atoms.start) * width
    return rows.new_zeros(places, *rows.shape[1:]).index_copy(0, slots[edges] - atoms.start * width, rows)
