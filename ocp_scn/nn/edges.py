"""Edges in groups that end at a range of atoms, and signals between atoms and edge frames.

Where there are kernels, they rotate edge by edge (:mod:`ocp_scn.nn.kernel_edges`). Elsewhere, and where
forces are derivatives, matrix products do, here. One for every edge would be small and slow. Edges are
therefore put side by side in places, as many for each atom: turning an atom's signal into the frames of all
its edges is then one matrix product, and so is turning messages back and summing them, where the sum over
edges is part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ocp_scn.graph import Graph
from ocp_scn.nn.activations import silu
from ocp_scn.nn.taps import OneTap, Taps

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


class Receivers(NamedTuple):
    """Atoms next to each other at which messages are summed, with n places for edges each.

    Attributes:
        num_atoms: A''.
        num_edges: E''.
        places: (E'',) place of each edge among A'' n; None if the edges fill all places in order.
        rows: (A'' n, S, K) Wigner rows by place times the envelope of the messages.
    """

    num_atoms: int
    num_edges: int
    places: Tensor | None
    rows: Tensor

    def inputs(self) -> tuple[Tensor, ...]:
        """Return what :meth:`sum` takes beside values, apart so that it can have gradients."""
        return (self.rows,)

    def sum(
        self, taps: OneTap | Taps, values: Tensor, bias: Tensor, rows: Tensor, *, inplace: bool
    ) -> Tensor:
        """Activate the last map's values, average the taps, turn back and sum at the targets.

        Args:
            taps: of the values.
            values: (E'', T, S C) before bias and activation.
            bias: (S C,).
            rows: :attr:`rows`.
            inplace: whether ``values`` may be overwritten.

        Returns:
            (A'', K, C).
        """
        kept = taps.average(silu(values, bias, inplace=inplace))
        if isinstance(taps, OneTap) and taps.by_order is not None:
            kept = kept[:, taps.by_order]  # as the rows are
        return sum_at_targets(kept, rows, self)


class EdgeGroup(NamedTuple):
    """Edges of one resolution that end at a range of atoms.

    Attributes:
        edges: the range of the graph's edges, E'.
        source: the end that sends.
        target: the end that receives.
        receivers: the target's atoms once more, in ranges of fewer edges.
    """

    edges: slice
    source: End
    target: End
    receivers: list[Receivers]

    def inputs(self) -> tuple[Tensor, ...]:
        """Return what :meth:`first_input` takes beside signals, apart so that it can have gradients."""
        return self.source.rows, self.target.rows

    def first_input(self, taps: OneTap | Taps, x: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return what the first map of the messages multiplies, from the signals x (A, K, C) of all atoms."""
        if x.shape[1] == 1:  # which rotations do not change
            rows = tuple(of_end[:, :1, :1] for of_end in rows)
        ends = zip(rows, (self.source, self.target), strict=True)
        return taps.split_input([to_edge_frames(x, of_end, end) for of_end, end in ends])


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
    if size < x.shape[1]:
        x = x.narrow(1, 0, size)
    here = x[end.atoms] if isinstance(end.atoms, slice) else _gather(x, end.atoms)
    here = here.to(rows.dtype)  # (A', K, C)
    of_atom = places // max(len(here), 1)  # n
    with torch.autocast(x.device.type, enabled=False):  # cheap enough for full precision
        turned = torch.bmm(rows.reshape(len(here), of_atom * kept, size), here)
    turned = turned.view(places, kept, x.shape[-1])
    return turned if end.places is None else _gather(turned, end.places)


def sum_at_targets(values: Tensor, rows: Tensor, at: Receivers) -> Tensor:
    """Turn messages back into the global frame and sum them at their targets.

    Args:
        values: (E'', S, C) messages in edge frames.
        rows: ``at.rows``, apart so that a gradient can be taken by it.
        at: the atoms and the edges' places.

    Returns:
        (A'', K, C).
    """
    places, kept, size = rows.shape
    channels, values = values.shape[-1], values.to(rows.dtype)
    if at.places is not None:
        values = values.new_zeros(places, kept, channels).index_copy(0, at.places, values)
    stacked = rows.view(at.num_atoms, -1, size).mT  # (A'', K, n S)
    with torch.autocast(values.device.type, enabled=False):
        return torch.bmm(stacked, values.view(at.num_atoms, -1, channels))


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
    max_edges: list[tuple[int, int]],
) -> list[list[EdgeGroup]]:
    """Split the edges of each resolution into groups of a bounded size.

    Args:
        graph: the edges.
        rows: dense Wigner rows (E_r, S_r, K_r) of each resolution.
        envelope: (E,) factors of the messages; 1 if None.
        num_atoms: A.
        max_edges: for each resolution, how many edges a group may have, and how many its
            :class:`Receivers`, unless one atom has more.
    """
    groups = []
    of_resolution = zip(rows, resolutions(graph), graph.widths, strict=True)
    for r, (rows_r, (target, whole_r), width) in enumerate(of_resolution):
        width = max(width, 1)  # noqa: PLW2901  # an atom without edges has one empty place
        groups_r = []
        rank = graph.rank[whole_r]
        for atoms, edges, parts in ranges(target, num_atoms, width, max_edges[r]):
            whole = slice(whole_r.start + edges.start, whole_r.start + edges.stop)
            places = _places(target[edges], rank[edges], atoms, width)
            num_places = (atoms.stop - atoms.start) * width
            end = End(atoms, places, _by_place(rows_r[edges], places, num_places))
            back = end.rows
            if envelope is not None:
                back = _by_place(envelope[whole, None, None] * rows_r[edges], places, num_places)
            receivers = [
                Receivers(
                    num_atoms=part.stop - part.start,
                    num_edges=received.stop - received.start,
                    places=_places(target[received], rank[received], part, width),
                    rows=back[(part.start - atoms.start) * width : (part.stop - atoms.start) * width],
                )
                for part, received in parts
            ]
            source = _source_end(rows_r[edges], graph.source[whole])
            groups_r.append(EdgeGroup(whole, source, end, receivers))
        groups.append(groups_r)
    return groups


def resolutions(graph: Graph) -> Iterator[tuple[Tensor, slice]]:
    """Yield the targets of each resolution's edges, and their range among all."""
    borders = itertools.accumulate(graph.sizes, initial=0)
    for edges in itertools.starmap(slice, itertools.pairwise(borders)):
        yield graph.target[edges], edges


def _places(target: Tensor, rank: Tensor, atoms: slice, width: int) -> Tensor | None:
    """Return the places of edges sorted by target, None if there are no others."""
    full = len(target) == (atoms.stop - atoms.start) * width
    return None if full else (target - atoms.start) * width + rank


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


def ranges(
    target: Tensor, num_atoms: int, width: int, max_edges: tuple[int, int]
) -> Iterator[tuple[slice, slice, list[tuple[slice, slice]]]]:
    """Yield ranges of atoms with the ranges of edges, sorted by target, that end there.

    There is one range of each for a group, and a list of both for its receivers. An atom has up to ``width``
    edges, a group and its receivers as many as ``max_edges``, unless one atom has more.
    """
    steps = [max(1, most // width) for most in max_edges]  # atoms
    groups = [_even(atoms, steps[1]) for atoms in _even(slice(0, num_atoms), steps[0])]
    starts = [atoms.start for group in groups for atoms in group]
    if len(starts) == 1:  # the usual case on a GPU, which nothing has to wait for here
        borders = [0, len(target)]
    else:
        wanted = torch.tensor([*starts, num_atoms], device=target.device)
        borders = torch.searchsorted(target, wanted).tolist()
    edges = itertools.starmap(slice, itertools.pairwise(borders))
    for group in groups:
        parts = [(atoms, next(edges)) for atoms in group]
        (first, first_edges), (last, last_edges) = parts[0], parts[-1]
        yield slice(first.start, last.stop), slice(first_edges.start, last_edges.stop), parts


def _even(atoms: slice, step: int) -> list[slice]:
    """Split a range into the fewest of equal length, up to one, that have at most ``step`` atoms."""
    count = atoms.stop - atoms.start
    parts = max(1, -(-count // step))
    starts = [atoms.start + count * k // parts for k in range(parts + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(starts)))


def _by_place(rows: Tensor, places: Tensor | None, num_places: int) -> Tensor:
    """Put the rows of each edge in its place, zeros elsewhere."""
    if places is None:
        return rows
    return rows.new_zeros(num_places, *rows.shape[1:]).index_copy(0, places, rows)
