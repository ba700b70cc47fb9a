"""The update of an atom from the sum of its messages (the paper's equation 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.products import input_major, large_products_pay, plus_product, product, product_dtype
from ocp_scn.nn.recompute import joined, recomputed
from ocp_scn.ops.chunks import ChunkSizes, chunk_sizes
from ocp_scn.sphere import TableModule, coefficients_to_grid, grid_to_coefficients

# The coefficient (0, 0) of a function that is 1 everywhere.
_CONSTANT = math.sqrt(4 * math.pi)


class GridAggregation(TableModule):
    """A network applied at every point of a sphere grid to the old and the new signal.

    The first map's input is the signals' values on the grid, cut to the degrees 0..L - j for each
    band j; its last map's output is projected onto the degrees 0..L. Both maps are linear and
    the same at all points, so they commute with the transforms and are applied to the few
    coefficients instead of the many points; bands are then sums of the first map's parts.

    Args:
        lmax: L, largest degree.
        num_bands: b; band j is the signal cut to the degrees 0..L - j.
        channels: C'.
        resolution: latitudes of the grid; 0 means 2 (L + 1).
    """

    to_grid: Tensor  # (G, K)
    from_grid: Tensor  # (K, G)

    def __init__(self, *, lmax: int, num_bands: int, channels: int, resolution: int = 0) -> None:
        super().__init__()
        wide = 2 * num_bands * channels
        self.lmax, self.num_bands = lmax, num_bands
        self.fc1 = input_major(nn.Linear(wide, wide))
        self.fc2 = input_major(nn.Linear(wide, 2 * channels))
        self.fc3 = input_major(nn.Linear(2 * channels, channels))
        self.register_table("to_grid", coefficients_to_grid(lmax, resolution))
        self.register_table("from_grid", grid_to_coefficients(lmax, resolution))

    def forward(self, x: Tensor, messages: Tensor) -> Tensor:
        """Return the new signal (A, K, C') from the old one (A, K, C') or (A, 1, C') and summed messages."""
        if x.shape[1] == 1:
            x = pad(x, (0, 0, 0, messages.shape[1] - 1))
        maps = [tensor for fc in (self.fc1, self.fc2, self.fc3) for tensor in (fc.weight, fc.bias)]
        return recomputed(self._update(x), x, messages, *maps)

    def _update(self, x: Tensor) -> _Update:
        dtype = product_dtype(x)
        return _Update(
            to_grid=self.to_grid.to(dtype),
            from_grid=self.from_grid.to(dtype),
            borders=(0, *((self.lmax + 1 - j) ** 2 for j in reversed(range(self.num_bands)))),
            # With coefficients ahead of atoms, a transform is one product, and else one an atom.
            dim=0 if large_products_pay(x.to(dtype)) else 1,
            chunks=self._chunks(len(x), chunk_sizes(x.device)),
        )

    def _chunks(self, num_atoms: int, sizes: ChunkSizes) -> int:
        """Return in how many chunks to compute some atoms' grid points."""
        values = len(self.to_grid) * self.fc1.out_features  # of an atom
        most = sizes.grid_recorded if torch.is_grad_enabled() else sizes.grid
        return max(1, math.ceil(num_atoms / max(1, most // values)))


class _Update(NamedTuple):
    """What `GridAggregation` computes, some atoms at a time.

    Shapes are those of dim = 0, with coefficients and grid points ahead of atoms; with dim = 1, behind.
    """

    to_grid: Tensor  # (G, K)
    from_grid: Tensor  # (K, G)
    borders: tuple[int, ...]  # of the coefficients of b, b - 1, ..., 1 bands
    dim: int
    chunks: int

    def forward(
        self, x: Tensor, messages: Tensor, *weights: Tensor, keep: list[Tensor] | None = None
    ) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self._in_dtype(weights)
        of_bands = self._maps_of_bands(w1)
        found = []
        for both in self._both(x, messages):  # (K, A, 2 C')
            first = self._first_map(both, of_bands)  # (K, A, 2 b C'), to which b1 adds at every point
            h = silu_of_own(self._transform(self.to_grid, first), b1)  # (G, A, 2 b C')
            h = silu_of_own(_linear(h, w2), b2)  # (G, A, 2 C')
            found.append(self._plus_constant(_linear(self._transform(self.from_grid, h), w3), b3))
        return joined(found, 1 - self.dim).transpose(1, self.dim)  # (A, K, C')

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], /, *inputs: Tensor
    ) -> Sequence[Tensor | None]:
        x, messages, *weights = inputs
        w1, b1, w2, b2, w3, _ = self._in_dtype(weights)
        of_bands = self._maps_of_bands(w1)
        of_w1: list[Tensor | None] = [None] * len(of_bands)
        of_w2: Tensor | None = None
        of_w3: Tensor | None = None
        biases, of_inputs = [], []
        gradients = gradient.to(w1.dtype).transpose(1, self.dim).tensor_split(self.chunks, 1 - self.dim)
        for both, g in zip(self._both(x, messages), gradients, strict=True):
            values = self._transform(self.to_grid, self._first_map(both, of_bands))
            h1 = ops.bias_silu(values, b1)
            second = _linear(h1, w2)
            h2 = ops.bias_silu(second, b2)
            back = self._transform(self.from_grid, h2)

            g = g.contiguous()  # noqa: PLW2901
            of_w3 = plus_product(of_w3, _rows(back).mT, _rows(g).mT)
            of_h2 = self._transform(self.from_grid.mT, _linear(g, w3.mT))
            of_second = ops.bias_silu_backward(of_h2, second, b2)
            of_w2 = plus_product(of_w2, _rows(h1).mT, _rows(of_second).mT)
            of_values = ops.bias_silu_backward(_linear(of_second, w2.mT), values, b1)
            of_first = self._transform(self.to_grid.mT, of_values)
            biases.append((self._of_constant(of_first), _rows(of_second).sum(0), self._of_constant(g)))
            of_both = []
            for k, (u, v, a) in enumerate(self._ranges(both, of_first, of_bands)):
                rows = _rows(v)  # a copy if there are several bands
                of_w1[k] = plus_product(of_w1[k], _rows(u).mT, rows.mT)
                of_both.append(product(rows, a.mT).unflatten(0, v.shape[:-1]))
            of_inputs.append(joined(of_both, self.dim))
        of_signals = joined(of_inputs, 1 - self.dim).transpose(1, self.dim).to(x.dtype)
        of_x, of_messages = of_signals.chunk(2, dim=-1)
        of_b1, of_b2, of_b3 = (sum(parts[1:], start=parts[0]) for parts in zip(*biases, strict=True))
        of_maps = [t.mT for t in (of_w2, of_w3) if t is not None]
        found = [self._weight_of_bands([t for t in of_w1 if t is not None]), of_b1, of_maps[0], of_b2]
        found = [t.to(weight.dtype) for t, weight in zip([*found, of_maps[1], of_b3], weights, strict=True)]
        return [of_x if needed[0] else None, of_messages, *found]

    def _in_dtype(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.to(self.to_grid.dtype) for tensor in weights]

    def _both(self, x: Tensor, messages: Tensor) -> Iterator[Tensor]:
        """Yield old and new signals side by side."""
        parts = zip(x.tensor_split(self.chunks), messages.tensor_split(self.chunks), strict=True)
        for pair in parts:
            both = torch.cat([part.transpose(1, self.dim) for part in pair], dim=-1)
            yield both.to(self.to_grid.dtype)

    def _first_map(self, both: Tensor, of_bands: Sequence[Tensor]) -> Tensor:
        """Return the coefficients of the first map's output, without its bias."""
        return joined([_linear(part, a) for part, a in self._ranges(both, of_bands)], self.dim)

    def _ranges(self, *tensors: Tensor | Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return the ranges of coefficients with b, b - 1, ..., 1 bands, and what is listed for each."""
        found = []
        for k in range(len(self.borders) - 1):
            start, size = self.borders[k], self.borders[k + 1] - self.borders[k]
            found.append(
                tuple(t.narrow(self.dim, start, size) if isinstance(t, Tensor) else t[k] for t in tensors)
            )
        return found

    def _maps_of_bands(self, weight: Tensor) -> list[Tensor]:
        """Return the first map's matrices for the degrees of all bands, of all but the last, ..., of one.

        A degree that lies in the bands 0..j gets the sum of those bands' parts of the map.
        """
        bands = len(self.borders) - 1
        if bands == 1:
            return [weight]
        sums = weight.mT.unflatten(0, (2, bands, -1)).transpose(0, 1).cumsum(0)  # (b, 2, C', out)
        return [of_bands.flatten(0, 1).mT for of_bands in reversed(sums.unbind())]

    def _weight_of_bands(self, of_bands: Sequence[Tensor]) -> Tensor:
        """Return the derivative by the weight from those (in, out) by `_maps_of_bands`."""
        if len(of_bands) == 1:
            return of_bands[0].mT
        sums = list(itertools.accumulate(of_map.unflatten(0, (2, -1)) for of_map in of_bands))
        return torch.stack(sums[::-1], dim=1).flatten(0, 2).mT

    def _transform(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Return the matrix's product with the dimension of coefficients or grid points."""
        if self.dim == 1:
            return matrix @ values
        return product(matrix, values.flatten(1).mT).unflatten(1, values.shape[1:])

    def _plus_constant(self, coefficients: Tensor, constant: Tensor) -> Tensor:
        """Add, in place, functions with one value everywhere."""
        coefficients.select(self.dim, 0).add_(constant, alpha=_CONSTANT)
        return coefficients

    def _of_constant(self, gradient: Tensor) -> Tensor:
        """Return the derivative by those values."""
        return gradient.select(self.dim, 0).sum(0) * _CONSTANT


def _rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.mT of x (., ., in)."""
    return product(_rows(x), weight).unflatten(0, x.shape[:-1])
