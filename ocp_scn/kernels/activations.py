"""SiLU, gates and the mean of activated rolls."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocp_scn.kernels.library import call
from ocp_scn.kernels.tensors import Layout, addressed, check, precision


@torch.compiler.disable
def silu(x: Tensor, bias: Tensor | None = None, *, inplace: bool = False) -> Tensor:
    """Return SiLU(x + bias), in the place of x if wanted.

    Args:
        x: (..., N) contiguous.
        bias: (N,) of the same dtype; None for zero.
        inplace: whether to overwrite x.
    """
    result = x if inplace else torch.empty_like(x)
    call("silu", *_activation(x, bias), result.data_ptr(), *_size(x))
    return result


@torch.compiler.disable
def silu_derivative(gradient: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return gradient * SiLU'(x + bias); the gradient is like x, the others as in :func:`silu`."""
    check(gradient, x.shape, x.dtype)
    result = torch.empty_like(x)
    call("silu_derivative", *_activation(x, bias), gradient.data_ptr(), result.data_ptr(), *_size(x))
    return result


class Rolls(NamedTuple):
    """How T rolls of the frames make something of W rows that each edge has.

    Attributes:
        waves: (T, W) float32, the factors of the rows.
        layout: where the rows lie.
    """

    waves: Tensor
    layout: Layout


@torch.compiler.disable
def gated(
    first: Sequence[Tensor],
    rolls: Rolls,
    bias: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    *,
    inplace: bool = False,
) -> Tensor:
    """Return SiLU(waves @ u + bias) * SiLU(gate + gate_bias), (E, T, C), of each edge's rows u (W, C).

    Args:
        first: tensors (E, rows, C), or (E, C), that hold the rows, contiguous, float32 or bfloat16.
        rolls: what T, W and the waves are, and where each row lies in ``first``.
        bias: (C,) of the same dtype as ``first``.
        gate: (E, C), of this dtype as well.
        gate_bias: (C,), too.
        inplace: whether to overwrite ``first``, which is possible where it is one tensor, of T rows.
    """
    (num_edges, channels), (taps, number) = gate.shape, rolls.waves.shape
    arguments = _gated(first, rolls, bias, gate, gate_bias)
    if inplace and (number, rolls.layout.sizes) != (1, (taps,)):
        raise ValueError(f"{number} rows in {rolls.layout.sizes} have no place for {taps} taps")
    result = (
        first[0].view(num_edges, taps, channels) if inplace else gate.new_empty(num_edges, taps, channels)
    )
    last = result.data_ptr(), channels, num_edges, torch.get_num_threads()
    call("gated", *arguments, *last)
    return result


@torch.compiler.disable
def gated_derivative(
    gradient: Tensor, first: Sequence[Tensor], rolls: Rolls, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the derivatives by ``first`` and the gate from that by :func:`gated` (E, T, C) of the others."""
    (num_edges, channels), taps = gate.shape, rolls.waves.shape[0]
    arguments = _gated(first, rolls, bias, gate, gate_bias)
    check(gradient, (num_edges, taps, channels), gate.dtype)
    of_first, of_gate = [torch.empty_like(u) for u in first], torch.empty_like(gate)
    addresses = (ctypes.c_void_p * len(of_first))(*(u.data_ptr() for u in of_first))
    last = gradient.data_ptr(), addresses, of_gate.data_ptr(), channels, num_edges, torch.get_num_threads()
    call("gated_derivative", *arguments, *last)
    return of_first, of_gate


def _gated(
    first: Sequence[Tensor], rolls: Rolls, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> tuple[Any, ...]:
    waves, layout = rolls
    num_edges, channels = gate.shape
    for tensor, shape in ((gate, gate.shape), (bias, (channels,)), (gate_bias, (channels,))):
        check(tensor, shape, gate.dtype)
    taps, number = waves.shape
    check(waves, (taps, len(layout.rows)), torch.float32)
    by_row = [u.unsqueeze(1) if u.dim() == 2 else u for u in first]
    places = addressed(by_row, layout, num_edges, channels)
    check(first[0], None, gate.dtype)
    biased = bias.data_ptr(), gate.data_ptr(), gate_bias.data_ptr()
    return *places, number, waves.data_ptr(), taps, *biased


def _activation(x: Tensor, bias: Tensor | None) -> tuple[int | None, ...]:
    check(x)
    if bias is not None:
        check(bias, x.shape[-1:], x.dtype)
    return precision(x), x.data_ptr(), None if bias is None else bias.data_ptr()


def _size(x: Tensor) -> tuple[int, int, int]:
    width = x.shape[-1] if x.dim() else 1
    return x.numel() // max(width, 1), width, torch.get_num_threads()


class Mean(NamedTuple):
    """How coefficients of edge frames rolled T times enter the mean of the rolls that are rolled back.

    Attributes:
        own: (T, S) float32; coefficient s of roll t counts own[t, s] times in coefficient s.
        cross: (T, S) float32; it counts cross[t, s] times in coefficient partner[s].
        partner: (S,) that of the opposite order; s itself for order 0. Not checked.
    """

    own: Tensor
    cross: Tensor
    partner: Tensor


@torch.compiler.disable
def average(values: Tensor, bias: Tensor, mean: Mean) -> Tensor:
    """Return the mean (E, S, C), float32, of SiLU(values + bias) over T rolls.

    Args:
        values: (E, T, S C) contiguous, float32 or bfloat16.
        bias: (S C,) float32.
        mean: what T, S and the mean are.
    """
    num_edges, channels, *arguments = _rolled(values, bias, mean)
    result = values.new_empty(num_edges, mean.own.shape[1], channels, dtype=torch.float32)
    call("average", *arguments, result.data_ptr(), num_edges, torch.get_num_threads())
    return result


@torch.compiler.disable
def average_derivative(gradient: Tensor, values: Tensor, bias: Tensor, mean: Mean) -> Tensor:
    """Return the derivative by values from that by their mean (E, S, C); the others as in :func:`average`."""
    num_edges, channels, *arguments = _rolled(values, bias, mean)
    check(gradient, (num_edges, mean.own.shape[1], channels), torch.float32)
    result = torch.empty_like(values)
    results = gradient.data_ptr(), result.data_ptr()
    call("average_derivative", *arguments, *results, num_edges, torch.get_num_threads())
    return result


def _rolled(values: Tensor, bias: Tensor, mean: Mean) -> tuple[int, ...]:
    taps, kept = mean.own.shape
    num_edges, channels = values.shape[0], bias.numel() // kept
    check(values, (num_edges, taps, kept * channels))
    for tensor, shape, dtype in (
        (bias, (kept * channels,), torch.float32),
        (mean.own, (taps, kept), torch.float32),
        (mean.cross, (taps, kept), torch.float32),
        (mean.partner, (kept,), torch.int64),
    ):
        check(tensor, shape, dtype)
    tables = (tensor.data_ptr() for tensor in mean)
    of_values = precision(values), values.data_ptr(), bias.data_ptr()
    return num_edges, channels, *of_values, taps, kept, *tables, channels
