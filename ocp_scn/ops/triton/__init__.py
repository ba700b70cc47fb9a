"""The operators on NVIDIA's GPUs, in Triton: one kernel an operator.

Arguments and results are those of `ocp_scn.ops.reference`. Sums over edges are taken in the order of the
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
    """Turn atoms' signals x (A, K, C) into the frames of their edges: (E n S, C) of a dtype."""
    (edges, ends), channels = atom.shape, x.shape[2]
    out = x.new_empty(edges * row.shape[0] * row.shape[1], channels, dtype=dtype)
    if out.numel():
        x = _atom_by_atom(x)
        tensors = x, wigner.contiguous(), atom.contiguous(), row.contiguous(), out
        block, blocks = _blocks(channels)
        _launch(
            rotations.node_to_edge,
            (edges, ends, blocks),
            *tensors,
            edges,
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
    """Turn edges' coefficients v (E n S, C) back and sum them at atoms: (A, num_coefficients, C)."""
    # The kernel writes all coefficients up to lmax, those of atoms without edges as well.
    new = wigner.new_empty if num_coefficients == (lmax + 1) ** 2 else wigner.new_zeros
    sums = new(starts.shape[0] - 1, num_coefficients, v.shape[1])
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
    """Add what `edge_to_node` returns to sums (A, K, C)."""
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
        wigner.shape[0],
        order,
        starts.contiguous(),
        sums.stride(0),
        sums.shape[2],
        **_sizes(row, lmax, mmax),
        ADD=add,
        AT_ONCE=4 if mmax == 0 else 2 if mmax <= 2 else 1,
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
    edges, channels = atom.shape[0], v.shape[1]
    out = v.new_empty(edges, packed_size(lmax, mmax), dtype=dtype)
    if not channels:
        return out.zero_()
    if edges:
        x = _atom_by_atom(x)
        block = triton.next_power_of_2(channels)
        tile = block * triton.next_power_of_2(2 * lmax + 1)  # of each end, in registers
        _launch(
            rotations.wigner_gradient,
            (edges,),
            v.contiguous(),
            x,
            atom.contiguous(),
            row.contiguous(),
            out,
            edges,
            x.stride(0),
            channels,
            **_sizes(row, lmax, mmax),
            BLOCK=block,
            ACC=_accumulator(v, x, out),
            num_warps=min(max(tile // 2048, 1), 8),
        )
    return out


def _sizes(row: Tensor, lmax: int, mmax: int) -> dict[str, int]:
    """Return what kernels of rotations are compiled for."""
    ends, kept, _ = row.shape
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
    """Overwrite x by `bias_silu` of it."""
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
        # With 512 columns, a twentieth of the threads is idle in rows of 2,432; with 1,024, a fifth.
        columns = min(512, triton.next_power_of_2(width))
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
        parts = _parts(first)
        inputs = [*_padded(parts), mixing, bias, gate, gate_bias]
        _launch_gate(activations.gate, inputs, [out], parts, mixing, gate)
    return out


def gate_backward(
    gradient: Tensor, first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> list[Tensor]:
    """Return the derivatives by each of ``first``, and by ``gate``, from that by `gate`."""
    parts, of_gate = _parts(first), gate.new_empty(gate.shape)
    of_parts = [u.new_empty(u.shape) for u in parts]
    if of_gate.numel():
        inputs = [gradient, *_padded(parts), mixing, bias, gate, gate_bias]
        outputs = [*_padded(of_parts), of_gate]
        _launch_gate(activations.gate_backward, inputs, outputs, parts, mixing, gate)
    if len(parts) < len(first):
        of_parts = [u.clone() for u in of_parts[0].split([u.shape[1] for u in first], 1)]
    return [*of_parts, of_gate]


def _parts(first: Sequence[Tensor]) -> list[Tensor]:
    """Return the same rows in no more tensors than the kernels take."""
    return list(first) if len(first) <= GATED_PARTS else [torch.cat(list(first), 1)]


def _padded(parts: list[Tensor]) -> list[Tensor]:
    """Return as many tensors as the kernels take; they touch no rows of those that are too many."""
    return parts + parts[:1] * (GATED_PARTS - len(parts))


def _launch_gate(
    kernel: Any,
    inputs: list[Tensor],
    outputs: list[Tensor],
    parts: list[Tensor],
    mixing: Tensor,
    gate: Tensor,
) -> None:
    (edges, hidden), (taps, rows) = gate.shape, mixing.shape
    block, blocks = _blocks(hidden)
    sizes = [u.shape[1] for u in parts] + [0] * (GATED_PARTS - len(parts))
    _launch(
        kernel,
        (edges, blocks),
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


def tap_mean(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the mean (E, S, C) over taps of SiLU(values + bias) that is rolled back."""
    edges, kept = values.shape[0], cos.shape[1]
    out = cos.new_empty(edges, kept, values.shape[2] // kept)
    _launch_taps(activations.tap_mean, [values, bias, cos, sin, opposite], out, values, cos)
    return out


def tap_mean_backward(
    gradient: Tensor, values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor
) -> Tensor:
    """Return the derivative by ``values``, from that (E, S, C) by `tap_mean`."""
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
