"""Edges of one resolution as messages need them: at which atoms they end, and in chunks of a bounded size."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor


class Ends(NamedTuple):
    """At which atoms some edges have one or both ends.

    Attributes:
        atom: (E', n) the atoms.
        order: (E' n,) e n + j, edge and end, atom by atom; None for 0, 1, 2, ...
        starts: (A + 1,) where those of each atom begin; None where nobody will sum over them.
    """

    atom: Tensor
    order: Tensor | None
    starts: Tensor | None


class Chunk(NamedTuple):
    """Edges that are computed at once.

    Attributes:
        edges: their range among the resolution's.
        ends: senders (j = 0) and receivers (j = 1).
        receivers: ranges of the chunk's edges for the last map, with the receivers of each.
    """

    edges: slice
    ends: Ends
    receivers: list[tuple[slice, Ends]]


class Edges(NamedTuple):
    """The edges of one resolution.

    Attributes:
        wigner: (E, B) truncated Wigner matrices, into the edges' frames.
        back: (E, B) those that turn messages back, times the messages' envelope.
        chunks: of these edges.
    """

    wigner: Tensor
    back: Tensor
    chunks: list[Chunk]


def split_edges(
    source: Tensor, target: Tensor, num_atoms: int, max_edges: tuple[int, int], *, recorded: bool
) -> list[Chunk]:
    """Split edges, sorted by target, into chunks of even size.

    Args:
        source: (E,) sending atoms.
        target: (E,) receiving atoms, in ascending order.
        num_atoms: A.
        max_edges: how many edges a chunk may have, and how many the last map.
        recorded: whether there will be derivatives by the signals of the atoms.
    """
    atom = torch.stack([source, target], dim=1)
    atoms = torch.arange(num_atoms + 1, device=target.device)
    starts = torch.searchsorted(target, atoms)
    chunks = []
    for edges in _even(slice(0, len(source)), max_edges[0]):
        here = atom[edges]
        ends = Ends(here, *(_by_atom(here, atoms) if recorded else (None, None)))
        receivers = []
        for last in _even(edges, max_edges[1]):
            whole = last.stop - last.start == len(source)
            of_range = starts if whole else starts.clamp(last.start, last.stop) - last.start
            within = slice(last.start - edges.start, last.stop - edges.start)
            receivers.append((within, Ends(target[last, None], None, of_range)))
        chunks.append(Chunk(edges, ends, receivers))
    return chunks


def _by_atom(atom: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``order`` and ``starts`` of `Ends`, from the ends' atoms (E', n) and 0..A."""
    in_order, order = torch.sort(atom.flatten(), stable=True)
    return order, torch.searchsorted(in_order, atoms)


def _even(edges: slice, most: int) -> list[slice]:
    """Split a range into the fewest of equal length, up to one, with at most ``most`` edges."""
    count = edges.stop - edges.start
    parts = max(1, -(-count // max(1, most)))
    borders = [edges.start + count * k // parts for k in range(parts + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(borders)))
