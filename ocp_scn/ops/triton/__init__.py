"""The operators on NVIDIA's GPUs, in Triton: one kernel an operator.

Arguments and results are those of :mod:`ocp_scn.ops.reference`. Sums over edges are taken in the order of the
edges, without atomic additions, so that the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ocp_scn.ops.reference import packed_size
from ocp_scn.ops.triton import activations, rotations

# A warp has 32 threads, each of which moves 16 bytes at once: 4 numbers in float32.
CHANNELS_AT_ONCE = 128
GATED_PARTS = 5  # tensors of rows that a gate takes as they are: two orders


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run a kernel on the device of its first tensor, which need not be the current one."""
    with torch.cuda.device_of(next(x for x in args if isinstance(x, Tensor))):
        kernel[grid](*args, **options)


def _accumulator(*tensors: Tensor) -> tl.dtype:
    """Return what to compute in: float32, or float64 where there is such an argument."""
    return tl.float64 if any(x.dtype == torch.float64 for x in tensors) else tl.float32


# ----------------------------------------------------------------------------------------- rotations


def node_to_edge(
    x: Tensor,
    wigner: Tensor,
    atom: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor | None,
    lmax: int,
    mmax: int,
    dtype: torch.dtype,
) -> Tensor:
    """Turn atoms' signals x (A, K, C) into the frames of their edges: (E, n S, C) of a dtype."""
    (edges, ends), channels = atom.shape, x.shape[2]
    out = x.new_empty(edges, row.numel(), channels, dtype=dtype)
    if out.numel():
        x = _atom_by_atom(x)
        tensors = x, wigner.contiguous(), atom.contiguous(), row.contiguous(), out
        block, blocks = _blocks(channels)
        _launch(
            rotations.node_to_edge,
            (edges, ends, blocks),
            *tensors,
            x.stride(0),
            channels,
            **_sizes(row, lmax, mmax),
            BLOCK=block,
            ACC=_accumulator(x, wigner),
            num_warps=1,
        )
    return out


def edge_to_node(
    v: Tensor,
    wigner: Tensor,
    atom: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor,
    lmax: int,
    mmax: int,
    num_coefficients: int,
) -> Tensor:
    """Turn edges' coefficients v (E, n S, C) back and sum them at atoms: (A, num_coefficients, C)."""
    # The kernel writes all coefficients up to lmax, those of atoms without edges as well.
    new = wigner.new_empty if num_coefficients == (lmax + 1) ** 2 else wigner.new_zeros
    sums = new(starts.shape[0] - 1, num_coefficients, v.shape[2])
    _sum(sums, v, wigner, row, order, starts, lmax, mmax, add=False)
    return sums


def edge_to_node_(
    sums: Tensor,
    v: Tensor,
    wigner: Tensor,
    atom: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor,
    lmax: int,
    mmax: int,
) -> None:
    """Add what :func:`edge_to_node` returns to sums (A, K, C)."""
    inside = _atom_by_atom(sums)
    _sum(inside, v, wigner, row, order, starts, lmax, mmax, add=True)
    if inside is not sums:
        sums.copy_(inside)


def _sum(
    sums: Tensor,
    v: Tensor,
    wigner: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor,
    lmax: int,
    mmax: int,
    *,
    add: bool,
) -> None:
    """Add to sums, or overwrite them up to lmax."""
    if not sums.numel():
        return
    order = None if order is None else order.contiguous()
    block, blocks = _blocks(sums.shape[2])
    _launch(
        rotations.edge_to_node,
        (sums.shape[0], lmax + 1, blocks),
        sums,
        v.contiguous(),
        wigner.contiguous(),
        row.contiguous(),
        order,
        starts.contiguous(),
        sums.stride(0),
        sums.shape[2],
        **_sizes(row, lmax, mmax),
        ADD=add,
        AT_ONCE=2,
        BLOCK=block,
        ACC=_accumulator(sums, v, wigner),
        num_warps=1,
    )


def wigner_gradient(
    v: Tensor,
    x: Tensor,
    atom: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor,
    lmax: int,
    mmax: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the derivative (E, B) of the trilinear form by the Wigner matrices."""
    edges, channels = v.shape[0], v.shape[2]
    out = v.new_empty(edges, packed_size(lmax, mmax), dtype=dtype)
    if not channels:
        return out.zero_()
    if edges:
        x = _atom_by_atom(x)
        block = triton.next_power_of_2(channels)
        tile = block * triton.next_power_of_2(2 * min(lmax, mmax) + 1)
        _launch(
            rotations.wigner_gradient,
            (edges,),
            v.contiguous(),
            x,
            atom.contiguous(),
            row.contiguous(),
            out,
            x.stride(0),
            channels,
            **_sizes(row, lmax, mmax),
            BLOCK=block,
            ACC=_accumulator(v, x, out),
            num_warps=min(max(tile // 1024, 1), 8),
        )
    return out


def _sizes(row: Tensor, lmax: int, mmax: int) -> dict[str, int]:
    """Return what kernels of rotations are compiled for."""
    ends, kept = row.shape
    return {"LMAX": lmax, "MMAX": mmax, "KEPT": kept, "PACKED": packed_size(lmax, mmax), "ENDS": ends}


def _blocks(channels: int) -> tuple[int, int]:
    """Return how many channels a program has, a power of two, and how many programs that takes."""
    block = min(CHANNELS_AT_ONCE, triton.next_power_of_2(channels))
    return block, triton.cdiv(channels, block)


def _atom_by_atom(x: Tensor) -> Tensor:
    """Return x (A, K, C) with the coefficients of each atom in one piece."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


# --------------------------------------------------------------------------------------- activations


def bias_silu(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return SiLU(x + bias) of x (..., N) and bias (N,), None for zero; in the dtype of x."""
    x = x.contiguous()
    return _bias_silu(None, x, bias, torch.empty_like(x))


def bias_silu_(x: Tensor, bias: Tensor | None) -> None:
    """Overwrite x by :func:`bias_silu` of it."""
    inside = x.contiguous()
    _bias_silu(None, inside, bias, inside)
    if inside is not x:
        x.copy_(inside)


def bias_silu_backward(gradient: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return the derivative by x, from that by SiLU(x + bias)."""
    x = x.contiguous()
    return _bias_silu(gradient.contiguous(), x, bias, torch.empty_like(x))


def _bias_silu(gradient: Tensor | None, x: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if x.numel():
        width = x.shape[-1] if x.dim() else 1
        num_rows = x.numel() // width
        columns = min(512, triton.next_power_of_2(width))  # of 2,432, say, a twentieth of the last one is idle
        rows = 1024 // columns
        _launch(
            activations.bias_silu,
            (triton.cdiv(num_rows, rows), triton.cdiv(width, columns)),
            gradient,
            x,
            None if bias is None else bias.contiguous(),
            out,
            num_rows,
            width,
            ROWS=rows,
            COLUMNS=columns,
            ACC=_accumulator(x),
            num_warps=4,
        )
    return out


def gate(first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor) -> Tensor:
    """Return SiLU(mixing @ u + bias) * SiLU(gate + gate_bias), (E, T, H), of each edge's u (W, H)."""
    edges, hidden = gate.shape
    out = gate.new_empty(edges, mixing.shape[0], hidden)
    if out.numel():
        parts, sizes = _parts(first)
        _launch_gate(activations.gate, [*parts, mixing, bias, gate, gate_bias], [out], mixing, gate, sizes)
    return out


def gate_backward(
    gradient: Tensor, first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> list[Tensor]:
    """Return the derivatives by each of ``first``, and by ``gate``, from that by :func:`gate`."""
    of_gate = gate.new_empty(gate.shape)
    if not of_gate.numel():
        return [*(u.new_empty(u.shape) for u in first), of_gate]
    parts, sizes = _parts(first)
    of_parts = [u.new_empty(u.shape) for u in parts]
    inputs = [gradient, *parts, mixing, bias, gate, gate_bias]
    _launch_gate(activations.gate_backward, inputs, [*of_parts, of_gate], mixing, gate, sizes)
    if len(first) <= GATED_PARTS:
        return [*of_parts[: len(first)], of_gate]
    return [*(u.clone() for u in of_parts[0].split([u.shape[1] for u in first], 1)), of_gate]


def _launch_gate(
    kernel: Any, inputs: list[Tensor], outputs: list[Tensor], mixing: Tensor, gate: Tensor, sizes: list[int]
) -> None:
    (edges, hidden), (taps, rows) = gate.shape, mixing.shape
    block = min(128, triton.next_power_of_2(hidden))
    _launch(
        kernel,
        (edges, triton.cdiv(hidden, block)),
        *(x.contiguous() for x in inputs),
        *outputs,
        hidden,
        taps,
        rows,
        *sizes,
        TAPS=triton.next_power_of_2(taps),
        BLOCK=block,
        ACC=_accumulator(gate),
        num_warps=1,
    )


def _parts(first: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return as many tensors as the kernels take, and how many rows of an edge each has."""
    parts = list(first) if len(first) <= GATED_PARTS else [torch.cat(list(first), 1)]
    missing = [parts[0][:, :0]] * (GATED_PARTS - len(parts))
    return parts + missing, [u.shape[1] for u in parts + missing]


def tap_mean(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the mean (E, S, C) over taps of SiLU(values + bias) that is rolled back."""
    edges, kept = values.shape[0], cos.shape[1]
    out = cos.new_empty(edges, kept, values.shape[2] // kept)
    _launch_taps(activations.tap_mean, [values, bias, cos, sin, opposite], out, values, cos)
    return out


def tap_mean_backward(
    gradient: Tensor, values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor
) -> Tensor:
    """Return the derivative by ``values``, from that (E, S, C) by :func:`tap_mean`."""
    out = values.new_empty(values.shape)
    inputs = [gradient, values, bias, cos, sin, opposite]
    _launch_taps(activations.tap_mean_backward, inputs, out, values, cos)
    return out


def _launch_taps(kernel: Any, inputs: list[Tensor], out: Tensor, values: Tensor, cos: Tensor) -> None:
    if not out.numel():
        return
    taps, kept = cos.shape
    channels = values.shape[2] // kept
    block, blocks = _blocks(channels)
    _launch(
        kernel,
        (values.shape[0], blocks),
        *(x.contiguous() for x in inputs),
        out,
        channels,
        T=taps,
        S=kept,
        BLOCK=block,
        ACC=_accumulator(values),
        num_warps=1,
    )
