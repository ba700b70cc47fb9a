"""SiLU of biased values, by a kernel where there is one: torch's is up to five times slower on processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ocp_scn import kernels
from ocp_scn.nn.taps import OneTap, Taps


def silu(x: Tensor, bias: Tensor | None = None, *, inplace: bool = False) -> Tensor:
    """Return y / (1 + exp(-y)) of y = x + bias.

    Args:
        x: (..., N).
        bias: (N,), or None for zero.
        inplace: whether x may be overwritten, where no derivative of what follows will need it.
    """
    if not (kernels.usable(x) and x.is_contiguous()):
        return functional.silu(x, inplace) if bias is None else silu_of_own(x + bias.to(x.dtype))
    if bias is not None:
        bias = bias.to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return _SiLU.apply(x, bias)
    return kernels.silu(x, bias, inplace=inplace)


def silu_of_own(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return :func:`silu` of a tensor that nobody else has: in place, unless a derivative will need it."""
    return silu(x, bias, inplace=not torch.is_grad_enabled())


def gated(
    taps: OneTap | Taps,
    first: Sequence[Tensor],
    bias: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    *,
    inplace: bool = False,
) -> Tensor:
    """Activate the first map of every tap's roll, and multiply it by an activated gate.

    Args:
        taps: T rolls.
        first: the first map's results for the parts of the taps, (E, ., H) each, or one (E, H).
        bias: (H,) of the first map.
        gate: (E, H), which nobody else has.
        gate_bias: (H,).
        inplace: whether what comes may be overwritten, where no derivative of what follows will need it.

    Returns:
        (E, T, H).
    """
    if not (
        kernels.usable(gate) and all(u.is_contiguous() and u.dtype == gate.dtype for u in (*first, gate))
    ):
        return _gated_by_torch(taps, first, bias, gate, gate_bias, inplace=inplace)
    tensors = bias.to(gate.dtype), gate, gate_bias.to(gate.dtype), *first
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _Gated.apply(taps, *tensors)
    inplace = inplace and taps.num_taps == 1
    return kernels.gated(first, taps.rolls, *tensors[:3], inplace=inplace)


def _gated_by_torch(
    taps: OneTap | Taps,
    first: Sequence[Tensor],
    bias: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    *,
    inplace: bool,
) -> Tensor:
    rolled = taps.roll(first)  # for one tap the tensor that came, else one of our own
    rolled = silu(rolled, bias, inplace=inplace) if taps.num_taps == 1 else silu_of_own(rolled, bias)
    opened = silu_of_own(gate, gate_bias).unsqueeze(1)
    return rolled * opened if torch.is_grad_enabled() else rolled.mul_(opened)


def average_of_activated(values: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """Activate values of all taps, roll them back and average the taps, by a kernel.

    Args:
        values: (E, T, S C) in the processor's memory.
        bias: (S C,).
        taps: T rolls of frames that keep S coefficients.

    Returns:
        (E, S, C) float32.
    """
    if not (kernels.usable(values) and values.is_contiguous()):
        values = values.float().contiguous()
    bias = bias.float()
    if torch.is_grad_enabled() and (values.requires_grad or bias.requires_grad):
        return _Average.apply(taps, values, bias)
    return kernels.average(values, bias, taps.mean)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, taps: OneTap | Taps, bias: Tensor, gate: Tensor, gate_bias: Tensor, *first: Tensor
    ) -> Tensor:
        ctx.taps = taps
        ctx.save_for_backward(bias, gate, gate_bias, *first)
        return kernels.gated(first, taps.rolls, bias, gate, gate_bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        bias, gate, gate_bias, *first = ctx.saved_tensors
        taps = ctx.taps
        if torch.is_grad_enabled():  # to be differentiated again
            result = _gated_by_torch(taps, first, bias, gate, gate_bias, inplace=False)
            needed = ctx.needs_input_grad[1:]
            wanted = [x for x, need in zip((bias, gate, gate_bias, *first), needed, strict=True) if need]
            found = iter(torch.autograd.grad(result, wanted, gradient, create_graph=True))
            return None, *(next(found) if need else None for need in needed)
        gradient = gradient.to(gate.dtype).contiguous()
        of_first, of_gate = kernels.gated_derivative(gradient, first, taps.rolls, bias, gate, gate_bias)
        # A bias adds to every roll, as the result for order 0 does.
        return None, of_first[0].flatten(0, -2).sum(0), of_gate, of_gate.sum(0), *of_first


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, taps: Taps, values: Tensor, bias: Tensor) -> Tensor:
        ctx.taps = taps
        ctx.save_for_backward(values, bias)
        return kernels.average(values, bias, taps.mean)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            kept = ctx.taps.average(silu(values, bias))[:, torch.tensor(ctx.taps.by_order).argsort()]
            return None, *torch.autograd.grad(kept, (values, bias), gradient, create_graph=True)
        derivative = kernels.average_derivative(gradient.contiguous(), values, bias, ctx.taps.mean)
        return None, derivative, derivative.flatten(0, 1).sum(0) if ctx.needs_input_grad[2] else None


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, bias)
        return kernels.silu(x, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, bias = ctx.saved_tensors
        gradient = gradient.to(x.dtype)
        if torch.is_grad_enabled() or not kernels.usable(gradient):  # to be differentiated again
            y = x if bias is None else x + bias
            sigmoid = torch.sigmoid(y)
            gradient = gradient * sigmoid * (1 + y * (1 - sigmoid))
        else:
            gradient = kernels.silu_derivative(gradient.contiguous(), x, bias)
        if not ctx.needs_input_grad[1]:
            return gradient, None
        return gradient, gradient.sum_to_size(bias.shape)
