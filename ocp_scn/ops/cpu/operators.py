"""The operators on CPUs: in C++ for float32 and bfloat16, by their definitions in other dtypes.

Results have the same bits on any number of threads. What would read memory of something else is a
``ValueError``: shapes that do not fit one another, and edges of atoms that do not exist.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from ocp_scn.ops import reference
from ocp_scn.ops.cpu.library import call

_KINDS = {torch.float32: 0, torch.bfloat16: 1}


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
    """Turn atoms' signals into the frames of their edges, see `ocp_scn.ops.reference.node_to_edge`."""
    if not (dtype in _KINDS and x.dtype in _KINDS and _in_float32(wigner)):
        return reference.node_to_edge(x, wigner, atom, row, order, starts, lmax, mmax, dtype)
    x, wigner, atom = _rows_together(x.float()), wigner.contiguous(), atom.contiguous()
    v = x.new_empty(atom.shape[0] * row.shape[0] * row.shape[1], x.shape[2], dtype=dtype)
    matrices = _wigner(wigner, lmax, mmax)
    _check(x.shape[1] >= (lmax + 1) ** 2 and len(wigner) == len(atom), x, wigner, atom)
    signal = x.data_ptr(), x.shape[0], x.stride(0), x.shape[2], atom.data_ptr()
    rows, size = _rows(row, atom.shape[1], lmax, mmax), (atom.shape[0], torch.get_num_threads())
    if call("node_to_edge", _KINDS[dtype], *signal, *matrices, *rows, v.data_ptr(), *size):
        raise _missing_atoms(atom, x)
    return v


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
    """Turn edges' coefficients back and sum them at atoms, see `ocp_scn.ops.reference.edge_to_node`."""
    shape = starts.shape[0] - 1, num_coefficients, v.shape[1]
    if not (v.dtype in _KINDS and _in_float32(wigner)):
        return reference.edge_to_node(v, wigner, atom, row, order, starts, lmax, mmax, num_coefficients)
    full = (lmax + 1) ** 2 == num_coefficients
    sums = wigner.new_empty(shape) if full else wigner.new_zeros(shape)
    _sum(sums, v, wigner, atom, row, order, starts, lmax, mmax, add=False)
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
    """Add what `edge_to_node` returns to sums."""
    if not (v.dtype in _KINDS and _in_float32(wigner, sums)):
        reference.edge_to_node_(sums, v, wigner, atom, row, order, starts, lmax, mmax)
    elif sums.stride()[1:] == (sums.shape[2], 1):
        _sum(sums, v, wigner, atom, row, order, starts, lmax, mmax, add=True)
    else:  # coefficients of an atom are far from one another in memory
        sums += edge_to_node(v, wigner, atom, row, order, starts, lmax, mmax, sums.shape[1])


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
    """Return the derivative by Wigner matrices, see `ocp_scn.ops.reference.wigner_gradient`."""
    if not (v.dtype in _KINDS and x.dtype in _KINDS and dtype == torch.float32):
        return reference.wigner_gradient(v, x, atom, row, order, starts, lmax, mmax, dtype)
    v, x, atom = v.contiguous(), _rows_together(x.float()), atom.contiguous()
    result = x.new_empty(atom.shape[0], reference.packed_size(lmax, mmax))
    _, *sizes = _wigner(result, lmax, mmax)
    _check(x.shape[1] >= (lmax + 1) ** 2 and 3 * v.shape[0] == len(atom) * row.numel(), v, x, atom, row)
    signal = x.data_ptr(), x.shape[0], x.stride(0), x.shape[2], atom.data_ptr()
    rows, size = _rows(row, atom.shape[1], lmax, mmax), (atom.shape[0], torch.get_num_threads())
    addresses = v.data_ptr(), *signal, *sizes, *rows, result.data_ptr()
    if call("wigner_gradient", _KINDS[v.dtype], *addresses, *size):
        raise _missing_atoms(atom, x)
    return result


def bias_silu(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return SiLU(x + bias), see `ocp_scn.ops.reference.bias_silu`."""
    if x.dtype not in _KINDS:
        return reference.bias_silu(x, bias)
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    _activate("bias_silu", [x.contiguous()], bias, result)
    return result


def bias_silu_(x: Tensor, bias: Tensor | None) -> None:
    """Overwrite x by `bias_silu` of it."""
    if x.dtype in _KINDS and x.is_contiguous():
        _activate("bias_silu", [x], bias, x)
    else:
        reference.bias_silu_(x, bias)


def bias_silu_backward(gradient: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return the derivative by x, see `ocp_scn.ops.reference.bias_silu_backward`."""
    if x.dtype not in _KINDS:
        return reference.bias_silu_backward(gradient, x, bias)
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    _activate("bias_silu_backward", [gradient.to(x.dtype).contiguous(), x.contiguous()], bias, result)
    return result


def gate(first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor) -> Tensor:
    """Activate what is mixed for every tap, times a gate; see `ocp_scn.ops.reference.gate`."""
    if not _all_in_dtype_of(gate, first):
        return reference.gate(first, mixing, bias, gate, gate_bias)
    (edges, hidden), taps = gate.shape, mixing.shape[0]
    result = gate.new_empty(edges, taps, hidden)
    first, gate = [u.contiguous() for u in first], gate.contiguous()
    mixed, *tensors = _gated(first, mixing, bias, gate, gate_bias)
    last = result.data_ptr(), hidden, edges, torch.get_num_threads()
    call("gate", _KINDS[gate.dtype], *mixed, *(t.data_ptr() for t in tensors), *last)
    return result


def gate_backward(
    gradient: Tensor, first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> list[Tensor]:
    """Return the derivatives by ``first`` and the gate, see `ocp_scn.ops.reference.gate_backward`."""
    if not _all_in_dtype_of(gate, first):
        return reference.gate_backward(gradient, first, mixing, bias, gate, gate_bias)
    (edges, hidden), taps = gate.shape, mixing.shape[0]
    gradient = gradient.to(gate.dtype).contiguous()
    _check(gradient.shape == (edges, taps, hidden), gradient, mixing, gate)
    first, gate = [u.contiguous() for u in first], gate.contiguous()
    results = [torch.empty_like(u) for u in (*first, gate)]
    mixed, *tensors = _gated(first, mixing, bias, gate, gate_bias)
    of_first = _addresses(results[:-1]), results[-1].data_ptr()
    addresses = *mixed, *(t.data_ptr() for t in tensors), *of_first
    size = hidden, edges, torch.get_num_threads()
    call("gate_backward", _KINDS[gate.dtype], gradient.data_ptr(), *addresses, *size)
    return results


def tap_mean(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the mean of activated taps that are rolled back, see `ocp_scn.ops.reference.tap_mean`."""
    if not (values.dtype in _KINDS and _in_float32(cos, sin)):
        return reference.tap_mean(values, bias, cos, sin, opposite)
    kept = cos.shape[1]
    result = cos.new_empty(values.shape[0], kept, values.shape[2] // kept)
    values, bias = values.contiguous(), bias.float().contiguous()
    tables = _taps(values, bias, cos, sin, opposite)
    size = values.shape[0], torch.get_num_threads()
    call("tap_mean", _KINDS[values.dtype], *tables, result.data_ptr(), *size)
    return result


def tap_mean_backward(
    gradient: Tensor, values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor
) -> Tensor:
    """Return the derivative by ``values``, see `ocp_scn.ops.reference.tap_mean_backward`."""
    if not (values.dtype in _KINDS and _in_float32(cos, sin)):
        return reference.tap_mean_backward(gradient, values, bias, cos, sin, opposite)
    gradient, values = gradient.float().contiguous(), values.contiguous()
    bias = bias.float().contiguous()
    _check(gradient.numel() * cos.shape[0] == values.numel(), gradient, values, cos)
    result = torch.empty_like(values)
    tables = _taps(values, bias, cos, sin, opposite)
    size = values.shape[0], torch.get_num_threads()
    call("tap_mean_backward", _KINDS[values.dtype], gradient.data_ptr(), *tables, result.data_ptr(), *size)
    return result


# ---------------------------------------------------------------------------------- tensors as memory


def _sum(
    sums: Tensor,
    v: Tensor,
    wigner: Tensor,
    atom: Tensor,
    row: Tensor,
    order: Tensor | None,
    starts: Tensor,
    lmax: int,
    mmax: int,
    *,
    add: bool,
) -> None:
    v, wigner, starts = v.contiguous(), wigner.contiguous(), starts.contiguous()
    order = None if order is None else order.contiguous()
    matrices = _wigner(wigner, lmax, mmax)
    fits = sums.shape[1] >= (lmax + 1) ** 2 and 3 * v.shape[0] == len(wigner) * row.numel()
    _check(
        fits and sums.shape[2] == v.shape[1] and len(sums) + 1 == len(starts), sums, v, wigner, row, starts
    )
    signal = sums.data_ptr(), sums.stride(0), sums.shape[2]
    segments = None if order is None else order.data_ptr(), starts.data_ptr()
    rows, size = _rows(row, atom.shape[1], lmax, mmax), (sums.shape[0], torch.get_num_threads())
    values = len(wigner), v.data_ptr(), int(add)
    call("edge_to_node", _KINDS[v.dtype], *signal, *segments, *matrices, *rows, *values, *size)


def _activate(name: str, tensors: Sequence[Tensor], bias: Tensor | None, result: Tensor) -> None:
    width = result.shape[-1]
    bias = None if bias is None else bias.float().contiguous()
    _check(bias is None or bias.shape == (width,), *tensors)
    size = result.numel() // max(width, 1), width, torch.get_num_threads()
    addresses = *(x.data_ptr() for x in tensors), None if bias is None else bias.data_ptr()
    call(name, _KINDS[result.dtype], *addresses, result.data_ptr(), *size)


def _gated(
    first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> tuple[tuple[object, ...], Tensor, Tensor, Tensor]:
    """Return the addresses of what is mixed, and tensors whose memory has to be there for the call."""
    sizes = [u.shape[1] for u in first]
    shapes = [u.shape == (gate.shape[0], u.shape[1], gate.shape[1]) for u in first]
    _check(all(shapes) and mixing.shape[1] == sum(sizes) and mixing.is_contiguous(), *first, mixing, gate)
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    mixed = _addresses(first), numbers, mixing.data_ptr(), mixing.shape[0], mixing.shape[1]
    return mixed, bias.float().contiguous(), gate, gate_bias.float().contiguous()


def _taps(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> tuple[int, ...]:
    taps, kept = cos.shape
    channels = values.shape[2] // kept
    fits = values.shape[1:] == (taps, kept * channels) and bias.shape == (kept * channels,)
    _check(fits and cos.is_contiguous() and sin.is_contiguous() and sin.shape == cos.shape, values, bias, cos)
    tables = cos.data_ptr(), sin.data_ptr(), opposite.data_ptr()
    return values.data_ptr(), bias.data_ptr(), taps, kept, *tables, channels


def _wigner(wigner: Tensor, lmax: int, mmax: int) -> tuple[int, int, int, int]:
    size = reference.packed_size(lmax, mmax)
    _check(wigner.shape[1] == size, wigner)
    return wigner.data_ptr(), size, lmax, mmax


def _rows(row: Tensor, ends: int, lmax: int, mmax: int) -> tuple[int, int, int]:
    kept = reference.kept_size(lmax, mmax)
    _check(row.shape == (ends, kept, 3) and row.is_contiguous(), row)
    return row.data_ptr(), ends, kept


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def _rows_together(x: Tensor) -> Tensor:
    """Return signals (A, K, C) whose coefficients of an atom are one range of memory."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def _in_float32(*tensors: Tensor) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


def _all_in_dtype_of(gate: Tensor, first: Sequence[Tensor]) -> bool:
    return gate.dtype in _KINDS and all(u.dtype == gate.dtype for u in first)


def _missing_atoms(atom: Tensor, x: Tensor) -> ValueError:
    least, most = (int(value) for value in torch.aminmax(atom))
    return ValueError(f"edges have atoms from {least} to {most}; expected 0 to {len(x) - 1}")


def _check(fits: bool, *tensors: Tensor) -> None:
    """Raise ``ValueError`` where shapes do not fit: a kernel would read other memory."""
    if not fits:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"tensors of the shapes {shapes} do not fit one another")
