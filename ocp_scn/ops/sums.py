"""Sums in a fixed order, the same bits every time on a GPU too."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ocp_scn import ops


def sum_at_atoms(values: Tensor, atom: Tensor, num_atoms: int) -> Tensor:
    """Sum what edges have for the atoms at their ends, atom by atom.

    Args:
        values: (E, n, C) of each of the n ends.
        atom: (E, n) the atoms there.
        num_atoms: A.

    Returns:
        (A, C) sums, zero for an atom without edges.
    """
    edges, n, channels = values.shape
    in_order, order = torch.sort(atom.flatten(), stable=True)
    starts = torch.searchsorted(in_order, torch.arange(num_atoms + 1, device=atom.device))
    row, rotations = _rows(n, atom.device), values.new_ones(edges, 1)  # of degree 0 they are the number 1
    found = ops.edge_to_node(
        values.reshape(edges * n, channels), rotations, atom, row, order, starts, 0, 0, 1
    )
    return found.squeeze(1)


@lru_cache(maxsize=16)
def _rows(ends: int, device: torch.device) -> Tensor:
    """Return where the ends' values lie, (n, 1, 3); made once, because a GPU would wait for it."""
    with torch.inference_mode(False):
        return torch.tensor([[[0, ends, j]] for j in range(ends)], device=device)


def segment_sum(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Sum values by segments, one after the other.

    Args:
        values: (N, ...).
        segment: (N,) the segment of each, in ascending order.
        num_segments: B.

    Returns:
        (B, ...) sums, zero for a segment without values.
    """
    borders = torch.arange(num_segments + 1, device=segment.device)
    return _SegmentSum.apply(values, segment, torch.searchsorted(segment, borders))


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, segment: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(segment)
        return torch.segment_reduce(values, "sum", offsets=starts, unsafe=True, initial=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (segment,) = ctx.saved_tensors
        return gradient[segment], None, None
