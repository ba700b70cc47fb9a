"""Every operator in torch: its definition, and what runs where there is no faster code for a device or dtype.

Rotations between atoms and edge frames are one trilinear form,

    T(v, D, x) = sum over edges e, ends j, kept coefficients s, coefficients k and channels c of
                 v[r(e, j, s), c] D_e[s, k] x[atom[e, j], k, c],

whose derivatives by v, x and D are `node_to_edge`, `edge_to_node` and `wigner_gradient`.
The derivatives of each of the three are the other two.

Shapes: A atoms, E edges with n ends (one or both), S coefficients with \\|m\\| <= mmax of degrees up to
lmax, K >= (lmax + 1)**2 coefficients of a signal, C channels; T taps, H hidden channels. ``wigner`` (E, B)
has the rows \\|m\\| <= mmax of each edge's Wigner matrices, degree by degree
(2 min(l, mmax) + 1) x (2 l + 1). ``order`` (E n,) lists e n + j atom by atom (None: 0, 1, 2, ...), and
``starts`` (A + 1,) says where those of each atom begin.

The rows of ``v`` (E n S, C) lie in parts, each of which has the same number of rows of every edge: ``row``
(n, S, 3) says of coefficient s of end j how many rows of an edge the parts before have, how many this part
has, and which of these it is. So r(e, j, s) = E before + e size + which, and every row has one coefficient. A
part is a matrix that a linear map can multiply as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

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
    """Turn atoms' signals x (A, K, C) into the frames of their edges: (E n S, C) of a dtype.

    ``atom`` (E, n) are the ends; ``order`` and ``starts`` sort them for the derivative and may be None.
    """
    dense = dense_wigner(wigner, lmax, mmax)  # (E, S, K')
    signals = x[:, : (lmax + 1) ** 2].to(wigner.dtype)
    with torch.autocast(x.device.type, enabled=False):
        turned = dense[:, None] @ signals[atom]  # (E, n, S, C)
    v = x.new_empty(atom.shape[0] * row.shape[0] * row.shape[1], x.shape[2], dtype=dtype)
    return v.index_copy_(0, rows_of_edges(row, atom.shape[0]).flatten(), turned.flatten(0, 2).to(dtype))


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
    sums = wigner.new_zeros(starts.shape[0] - 1, num_coefficients, v.shape[1])
    edge_to_node_(sums, v, wigner, atom, row, order, starts, lmax, mmax)
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
    dense = dense_wigner(wigner, lmax, mmax)
    values = v[rows_of_edges(row, atom.shape[0])].to(wigner.dtype)  # (E, n, S, C)
    with torch.autocast(v.device.type, enabled=False):
        back = (dense.mT[:, None] @ values).flatten(0, 1)  # (E n, K', C)
    sums[:, : (lmax + 1) ** 2].index_add_(0, atom.flatten(), back.to(sums.dtype))


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
    """Return the derivative (E, B) of T by the Wigner matrices; the others as above."""
    signals = x[:, : (lmax + 1) ** 2].to(dtype)
    values = v[rows_of_edges(row, atom.shape[0])].to(dtype)  # (E, n, S, C)
    with torch.autocast(v.device.type, enabled=False):
        dense = (values @ signals[atom].mT).sum(1)  # (E, S, K')
    return dense.flatten(1)[:, packed_places(lmax, mmax, v.device)]


def rows_of_edges(row: Tensor, num_edges: int) -> Tensor:
    """Return r (E, n, S), the row of each edge's coefficients."""
    before, size, which = row.unbind(-1)
    edge = torch.arange(num_edges, device=row.device)[:, None, None]
    return before * num_edges + edge * size + which


def dense_wigner(wigner: Tensor, lmax: int, mmax: int) -> Tensor:
    """Return packed Wigner matrices (E, B) as block-diagonal ones (E, S, (lmax + 1)**2)."""
    size = (lmax + 1) ** 2
    kept = kept_size(lmax, mmax)
    dense = wigner.new_zeros(wigner.shape[0], kept * size)
    return dense.index_copy(1, packed_places(lmax, mmax, wigner.device), wigner).unflatten(1, (kept, size))


def kept_size(lmax: int, mmax: int) -> int:
    """Return S, the coefficients with \\|m\\| <= mmax."""
    return sum(2 * min(degree, mmax) + 1 for degree in range(lmax + 1))


def packed_size(lmax: int, mmax: int) -> int:
    """Return B, the numbers of an edge's Wigner matrices cut to \\|m\\| <= mmax."""
    return sum((2 * min(degree, mmax) + 1) * (2 * degree + 1) for degree in range(lmax + 1))


@lru_cache(maxsize=64)
def packed_places(lmax: int, mmax: int, device: torch.device) -> Tensor:
    """Return where each packed number lies in a flattened block-diagonal matrix, (B,)."""
    size, places, s = (lmax + 1) ** 2, [], 0
    for degree in range(lmax + 1):
        for _ in range(2 * min(degree, mmax) + 1):
            places += [s * size + degree**2 + k for k in range(2 * degree + 1)]
            s += 1
    return torch.tensor(places, device=device)


# --------------------------------------------------------------------------------------- activations


def bias_silu(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return SiLU(x + bias) of x (..., N) and bias (N,), None for zero; in the dtype of x."""
    return torch.nn.functional.silu(biased(x, bias)).to(x.dtype)


def bias_silu_(x: Tensor, bias: Tensor | None) -> None:
    """Overwrite x by `bias_silu` of it."""
    x.copy_(bias_silu(x, bias))


def bias_silu_backward(gradient: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return the derivative by x, from that by SiLU(x + bias)."""
    return (gradient.to(wide(x)) * slope(biased(x, bias))).to(x.dtype)


def gate(first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor) -> Tensor:
    """Return SiLU(mixing @ u + bias) * SiLU(gate + gate_bias), (E, T, H), of each edge's u (W, H).

    Args:
        first: tensors (E, w, H) that hold the W rows u one after the other.
        mixing: (T, W), whose first column is 1.
        bias: (H,).
        gate: (E, H).
        gate_bias: (H,).
    """
    mixed = mix(first, mixing) + bias.to(wide(gate))
    silu = torch.nn.functional.silu
    return (silu(mixed) * silu(biased(gate, gate_bias))[:, None]).to(gate.dtype)


def gate_backward(
    gradient: Tensor, first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> list[Tensor]:
    """Return the derivatives by each of ``first``, and by ``gate``, from that by `gate`."""
    silu, dtype = torch.nn.functional.silu, wide(gate)
    gradient = gradient.to(dtype)
    mixed, opening = mix(first, mixing) + bias.to(dtype), biased(gate, gate_bias)
    of_mixed = gradient * silu(opening)[:, None] * slope(mixed)  # (E, T, H)
    of_gate = (gradient * silu(mixed)).sum(1) * slope(opening)
    return [*unmix(of_mixed, first, mixing), of_gate.to(gate.dtype)]


def tap_mean(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the mean (E, S, C) over taps of SiLU(values + bias) that is rolled back.

    Args:
        values: (E, T, S C).
        bias: (S C,).
        cos: (T, S); coefficient s of tap t counts cos[t, s] times in itself,
        sin: (T, S); and sin[t, s] times in that of the opposite order.
        opposite: (S,) the coefficient of order -m of the same degree.

    Returns:
        (E, S, C) in the dtype of ``cos``.
    """
    activated = torch.nn.functional.silu(biased(values, bias))
    return roll_back(activated.unflatten(2, (cos.shape[1], -1)), cos, sin, opposite).to(cos.dtype)


def tap_mean_backward(
    gradient: Tensor, values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor
) -> Tensor:
    """Return the derivative by ``values``, from that (E, S, C) by `tap_mean`."""
    spread = roll_forth(gradient.to(wide(values)), cos, sin, opposite)
    return (spread.flatten(2) * slope(biased(values, bias))).to(values.dtype)


# ------------------------------------------------------------------------------ what they are made of


def wide(x: Tensor) -> torch.dtype:
    """Return the dtype to compute in: at least float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def biased(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return x + bias, in at least float32."""
    x = x.to(wide(x))
    return x if bias is None else x + bias.to(x.dtype)


def slope(y: Tensor) -> Tensor:
    """Return SiLU'(y)."""
    sigmoid = torch.sigmoid(y)
    return sigmoid * (1 + y * (1 - sigmoid))


def curvature(y: Tensor) -> Tensor:
    """Return SiLU''(y)."""
    sigmoid = torch.sigmoid(y)
    return sigmoid * (1 - sigmoid) * (2 + y * (1 - 2 * sigmoid))


def mix(first: Sequence[Tensor], mixing: Tensor) -> Tensor:
    """Return mixing @ u (E, T, H), in at least float32."""
    rows = torch.cat(list(first), dim=1)
    with torch.autocast(rows.device.type, enabled=False):
        return mixing.to(wide(rows)) @ rows.to(wide(rows))


def unmix(mixed: Tensor, first: Sequence[Tensor], mixing: Tensor) -> list[Tensor]:
    """Return mixing.T @ mixed in parts that are like ``first``."""
    with torch.autocast(mixed.device.type, enabled=False):
        rows = mixing.to(mixed.dtype).mT @ mixed
    parts = zip(rows.split([u.shape[1] for u in first], dim=1), first, strict=True)
    return [part.to(u.dtype, copy=True) for part, u in parts]  # results must not be views of one another


def roll_back(rolled: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the sums (E, S, C) over taps of what is rolled, (E, T, S, C)."""
    cos, sin = cos.to(rolled.dtype), sin.to(rolled.dtype)
    crossed = (sin[:, :, None] * rolled)[:, :, opposite]
    return (cos[:, :, None] * rolled + crossed).sum(1)


def roll_forth(gradient: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
    """Return the transpose of `roll_back`: (E, T, S, C) of (E, S, C)."""
    cos, sin = cos.to(gradient.dtype), sin.to(gradient.dtype)
    return cos[:, :, None] * gradient[:, None] + sin[:, :, None] * gradient[:, None, opposite]
