"""The update of an atom from the sum of its messages (the paper's equation 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.products import input_major, large_products_pay
from ocp_scn.nn.recompute import joined, linear, recomputed
from ocp_scn.ops.chunks import chunk_sizes
from ocp_scn.sphere import TableModule, coefficients_to_grid, grid_to_coefficients


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

    def __init__(self, *, lmax: int, num_bands: int, channels: int, resolution: int = 0) -> None:
        super().__init__()
        wide = 2 * num_bands * channels
        self.lmax, self.num_bands = lmax, num_bands
        self.fc1 = input_major(nn.Linear(wide, wide))
        self.fc2 = input_major(nn.Linear(wide, 2 * channels))
        self.fc3 = input_major(nn.Linear(2 * channels, channels))
        self.register_table("to_grid", coefficients_to_grid(lmax, resolution))  # (G, K)
        self.values_per_atom = len(self.to_grid) * wide
        self.register_table("from_grid", grid_to_coefficients(lmax, resolution))  # (K, G)

    def forward(self, x: Tensor, messages: Tensor) -> Tensor:
        """Return the new signal (A, K, C') from the old one (A, K, C') or (A, 1, C') and summed messages."""
        if x.shape[1] == 1:
            x = pad(x, (0, 0, 0, messages.shape[1] - 1))
        # With coefficients ahead of atoms, a transform is one product, and else one an atom.
        dim = 0 if large_products_pay(x) else 1  # of the coefficients
        sizes = chunk_sizes(x.device)
        most = sizes.grid_recorded if torch.is_grad_enabled() else sizes.grid
        blocks = max(1, math.ceil(len(x) / max(1, most // self.values_per_atom)))
        parts = zip(x.tensor_split(blocks), messages.tensor_split(blocks), strict=True)
        maps = [self.fc1.bias, *(tensor for fc in (self.fc2, self.fc3) for tensor in (fc.weight, fc.bias))]
        maps += self._maps_of_bands()
        update = partial(self._update, dim)
        return joined([recomputed(update, *part, *maps) for part in parts], dim=1 - dim).transpose(1, dim)

    def _update(
        self,
        dim: int,
        x: Tensor,
        messages: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        w3: Tensor,
        b3: Tensor,
        *of_bands: Tensor,
    ) -> Tensor:
        # Shapes are those of dim = 0; with dim = 1, atoms are ahead of coefficients and grid points.
        both = torch.cat([x.transpose(1, dim), messages.transpose(1, dim)], dim=-1)  # (K, A, 2 C')
        first = _add_constant(self._first_map(both, of_bands, dim), b1, dim)  # (K, A, 2 b C')
        second = linear(silu_of_own(_transform(self.to_grid, first, dim)), w2)  # (G, A, 2 C')
        back = linear(_transform(self.from_grid, silu_of_own(second, b2), dim), w3)  # (K, A, C')
        return _add_constant(back, b3, dim)

    def _first_map(self, both: Tensor, of_bands: Sequence[Tensor], dim: int) -> Tensor:
        """Return the coefficients of the first map's output, without its bias."""
        borders = [0, *((self.lmax + 1 - j) ** 2 for j in reversed(range(self.num_bands)))]
        ranges = zip(borders[:-1], borders[1:], of_bands, strict=True)
        parts = [linear(both.narrow(dim, start, stop - start), weight) for start, stop, weight in ranges]
        return joined(parts, dim)

    def _maps_of_bands(self) -> list[Tensor]:
        """Return the first map's matrices for the degrees of all bands, of all but the last, ..., of one.

        A degree that lies in the bands 0..j gets the sum of those bands' parts of the map.
        """
        weight = self.fc1.weight
        if self.num_bands == 1:
            return [weight]
        sums = weight.mT.unflatten(0, (2, self.num_bands, -1)).cumsum(1)
        return [sums[:, j].flatten(0, 1).mT for j in reversed(range(self.num_bands))]


def _transform(matrix: Tensor, values: Tensor, dim: int) -> Tensor:
    """Return the matrix's product with dimension ``dim``, 0 or 1, of three."""
    if dim == 1:
        return matrix @ values
    return linear(matrix, values.flatten(1).mT).unflatten(1, values.shape[1:])


def _add_constant(coefficients: Tensor, constant: Tensor, dim: int) -> Tensor:
    """Add, in place, a function with one value everywhere: its coefficient (0, 0) is sqrt(4 pi) times it."""
    coefficients.select(dim, 0).add_(constant, alpha=math.sqrt(4 * math.pi))
    return coefficients
