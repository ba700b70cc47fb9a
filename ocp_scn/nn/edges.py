"""Edges in groups that end at a range of atoms, and signals between atoms and edge frames.

A matrix product for every edge would be small and slow. Edges are therefore put side by side in places,
as many for each atom: turning an atom's signal into the frames of all its edges is then one matrix
product, and so is turning messages back and summing them, where the sum over edges is part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ocp_scn.graph import Graph

# Places for the edges that leave an atom; one with more edges is taken several times. Few enough to
# leave hardly a place empty, enough for efficient matrix products.
SOURCE_PLACES = 8


class End(NamedTuple):
    """One end of a group's edges: the atoms there, with n places for edges each.

    Attributes:
        atoms: the atoms, A', as a range or as an index (A',).
        places: (E',) place of each edge among A' n; None if the edges fill all places in order.
        rows: (A' n, S, K) Wigner rows by place, zero where there is no edge.
    """

    atoms: slice | Tensor
    places: Tensor | None
    rows: Tensor


class EdgeGroup(NamedTuple):
    """Edges of one resolution that end at a range of atoms.

    Attributes:
        edges: the range of the graph's edges, E'.
        source: the end that sends.
        target: the end that receives.
        rows_back: the target's rows times the envelope of the messages.
    """

    edges: slice
    source: End
    target: End
    rows_back: Tensor


def to_edge_frames(x: Tensor, rows: Tensor, end: End) -> Tensor:
    """Turn the signals of the atoms at one end into the frames of their edges, and keep some orders.

    Args:
        x: (A, K', C) signals of all atoms; only the first K coefficients count.
        rows: ``end.rows``, apart so that a gradient can be taken by it.
        end: the atoms and the edges' places.

    Returns:
        (E', S, C).
    """
    places, kept, size = rows.shape  # A' n, S, K
    here = x[end.atoms] if isinstance(end.atoms, slice) else _gather(x, end.atoms)
    here = here[:, :size].to(rows.dtype)  # (A', K, C)
    of_atom = places // max(len(here), 1)  # n
    with torch.autocast(x.device.type, enabled=False):  # cheap enough for full precision
        turned = torch.bmm(rows.view(len(here), of_atom * kept, size), here)
    turned = turned.view(places, kept, x.shape[-1])
    return turned if end.places is None else _gather(turned, end.places)


def sum_at_targets(values: Tensor, rows_back: Tensor, target: End) -> Tensor:
    """Turn messages (E', S, C) back into the global frame and sum them at their targets: (A', K, C)."""
    places, kept, size = rows_back.shape
    channels, values = values.shape[-1], values.to(rows_back.dtype)
    if target.places is not None:
        values = values.new_zeros(places, kept, channels).index_copy(0, target.places, values)
    assert isinstance(target.atoms, slice)
    num_atoms = target.atoms.stop - target.atoms.start
    stacked = rows_back.view(num_atoms, -1, size).mT  # (A', K, n S)
    with torch.autocast(values.device.type, enabled=False):
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
        of_resolution = []
        target = graph.target[first : first + size]
        for atoms, edges in _ranges(target, num_atoms, max(1, max_edges[r] // width)):
            whole = slice(first + edges.start, first + edges.stop)
            end = _target_end(rows[r][edges], target[edges], graph.rank[whole], atoms, width)
            back = end.rows
            if envelope is not None:
                factors = envelope[whole, None, None]
                back = _by_place(factors * rows[r][edges], end.places, len(end.rows))
            source = _source_end(rows[r][edges], graph.source[whole])
            of_resolution.append(EdgeGroup(whole, source, end, back))
        groups.append(of_resolution)
        first += size
    return groups


def _target_end(rows: Tensor, target: Tensor, rank: Tensor, atoms: slice, width: int) -> End:
    """Return the receiving end of edges sorted by target: ``width`` places for each of a range of atoms."""
    num_places = (atoms.stop - atoms.start) * width
    places = None if len(target) == num_places else (target - atoms.start) * width + rank
    return End(atoms, places, _by_place(rows, places, num_places))


def _source_end(rows: Tensor, source: Tensor) -> End:
    """Return the sending end of edges in any order."""
    order = torch.argsort(source, stable=True)
    atoms, counts = torch.unique_consecutive(source[order], return_counts=True)
    times = (counts + SOURCE_PLACES - 1) // SOURCE_PLACES  # how often an atom is taken
    # Edges of an atom lie side by side; what its places begin with is ahead of its first edge by
    # the places that are empty before.
    ahead = (times * SOURCE_PLACES).cumsum(0) - times * SOURCE_PLACES - (counts.cumsum(0) - counts)
    places = torch.empty_like(source)
    places[order] = torch.arange(len(source), device=source.device) + ahead.repeat_interleave(counts)
    atoms = atoms.repeat_interleave(times)
    return End(atoms, places, _by_place(rows, places, len(atoms) * SOURCE_PLACES))


def _ranges(target: Tensor, num_atoms: int, step: int) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of ``step`` atoms and of the edges, sorted by target, that end there."""
    if num_atoms <= step:
        yield slice(0, num_atoms), slice(0, len(target))
        return
    starts = [*range(0, num_atoms, step), num_atoms]
    borders = torch.searchsorted(target, torch.tensor(starts, device=target.device)).tolist()
    for k in range(len(starts) - 1):
        yield slice(starts[k], starts[k + 1]), slice(borders[k], borders[k + 1])


def _by_place(rows: Tensor, places: Tensor | None, num_places: int) -> Tensor:
    """Put the rows of each edge in its place, zeros elsewhere."""
    if places is None:
        return rows
    return rows.new_zeros(num_places, *rows.shape[1:]).index_copy(0, places, rows)
