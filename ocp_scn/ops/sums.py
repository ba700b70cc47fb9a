"""Sums in a fixed order, the same bits every time on a GPU too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
