"""Arguments of every operator, of all sizes that a network may have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocp_scn.ops import reference
from ocp_scn.sphere import kept_orders, num_coefficients


class Size(NamedTuple):
    """Of a test: atoms, edges, degrees, orders, ends, taps, channels and hidden channels."""

    atoms: int = 5
    edges: int = 11
    lmax: int = 3
    mmax: int = 1
    ends: int = 2
    taps: int = 4
    channels: int = 6
    hidden: int = 7


SIZES = [
    Size(),
    Size(lmax=0, mmax=0, taps=1),
    Size(lmax=6, mmax=1, channels=128, hidden=32, taps=1),
    Size(lmax=4, mmax=0, taps=8, channels=3, ends=1),
    Size(lmax=6, mmax=2, taps=8, channels=33, hidden=65),
    Size(lmax=10, mmax=3, channels=5, ends=1, edges=7),
    Size(lmax=2, mmax=2, taps=5, channels=9, hidden=130),
    Size(edges=0),
    Size(atoms=1, edges=3),
    Size(atoms=40, edges=4),  # most of which have no edge
]
FAST = [
    Size(atoms=3, edges=4, lmax=2, mmax=1, taps=3, channels=2, hidden=2),
    Size(edges=0, channels=2, hidden=2),
]


def csr(atom: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
    """Return the ends e n + j atom by atom, and where those of each atom begin."""
    sorted_atoms, order = atom.flatten().sort(stable=True)
    return order, torch.searchsorted(sorted_atoms, torch.arange(num_atoms + 1))


def rows_in_parts(ends: int, kept: int) -> Tensor:
    """Return where coefficients lie, at random, in up to three parts."""
    number = ends * kept
    borders = [0, *sorted({number // 3, number // 2} - {0}), number]
    places = [
        (start, stop - start, k) for start, stop in itertools.pairwise(borders) for k in range(stop - start)
    ]
    return torch.tensor(places)[torch.randperm(number)].view(ends, kept, 3)


def arguments(
    size: Size, dtype: torch.dtype, *, wide: torch.dtype = torch.float32
) -> Iterator[tuple[str, list[Any]]]:
    """Yield each operator's name and arguments: what products take in ``dtype``, the others in ``wide``."""
    atoms, edges, lmax, mmax, ends, taps, channels, hidden = size
    kept, packed = num_coefficients(lmax, mmax), reference.packed_size(lmax, mmax)
    atom = torch.randint(atoms, (edges, ends))
    atom[atom == 2] = 0  # one atom has no edge, where there are so many
    row = rows_in_parts(ends, kept)
    order, starts = csr(atom, atoms)
    x = torch.randn(atoms, (lmax + 1) ** 2 + 2, channels, dtype=wide)
    wigner = torch.randn(edges, packed, dtype=wide)
    v = torch.randn(edges * ends * kept, channels, dtype=wide).to(dtype)
    where = [atom, row, order, starts, lmax, mmax]
    yield "node_to_edge", [x, wigner, *where, dtype]
    yield "edge_to_node", [v, wigner, *where, x.shape[1]]
    yield "wigner_gradient", [v, x, *where, wide]

    angles = 2 * math.pi * torch.arange(taps, dtype=wide) / taps
    mixing = [torch.ones_like(angles)]
    for m in range(1, mmax + 1):
        mixing += [(m * angles).sin(), (m * angles).cos()]
    first = [torch.randn(edges, 1, hidden, dtype=wide).to(dtype)]
    first += [torch.randn(edges, 2, hidden, dtype=wide).to(dtype) for _ in range(mmax)]
    gate = torch.randn(edges, hidden, dtype=wide).to(dtype)
    bias, gate_bias = torch.randn(2, hidden, dtype=wide)
    gated = [first, torch.stack(mixing, 1), bias, gate, gate_bias]
    yield "gate", gated
    yield "gate_backward", [torch.randn(edges, taps, hidden, dtype=wide).to(dtype), *gated]

    values = torch.randn(edges, taps, kept * channels, dtype=wide).to(dtype)
    bias = torch.randn(kept * channels, dtype=wide)
    yield "bias_silu", [values, bias]
    yield "bias_silu", [values, None]
    yield "bias_silu_backward", [torch.randn_like(values), values, bias]

    orders = kept_orders(lmax, mmax)
    opposite = torch.tensor([orders.index((degree, -m)) for degree, m in orders])
    cos, sin = torch.randn(2, taps, kept, dtype=wide)
    sin = torch.where(opposite == torch.arange(kept), 0, sin)
    mean = [values, bias, cos, sin, opposite]
    yield "tap_mean", mean
    yield "tap_mean_backward", [torch.randn(edges, kept, channels, dtype=wide), *mean]


def requiring(arguments: list[Any]) -> tuple[list[Any], list[Tensor]]:
    """Return arguments whose numbers require a gradient, and those; tables do not."""
    wanted: list[Tensor] = []

    def copy(x: Any) -> Any:
        if isinstance(x, list):
            return [copy(y) for y in x]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        wanted.append(x.detach().clone().requires_grad_())
        return wanted[-1]

    return [copy(x) for x in arguments], wanted
