"""The update of an atom from the sum of its messages (the paper's equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ocp_scn.sphere import TableModule, band_to_grid, grid_to_coefficients


class GridAggregation(TableModule):
    """A network applied at every point of a sphere grid to the old and the new signal.

    Args:
        lmax: L, largest degree.
        num_bands: b; band j is the signal cut to the degrees 0..L - j.
        channels: C'.
        resolution: latitudes of the grid; 0 means 2 (L + 1).
    """

    def __init__(self, *, lmax: int, num_bands: int, channels: int, resolution: int = 0) -> None:
        super().__init__()
        wide = 2 * num_bands * channels
        self.fc1 = nn.Linear(wide, wide)
        self.fc2 = nn.Linear(wide, 2 * channels)
        self.fc3 = nn.Linear(2 * channels, channels)
        to_grid = band_to_grid(lmax, num_bands, resolution)  # (G, b, K)
        self.grid_size = len(to_grid)
        self.register_table("to_grid", to_grid.flatten(0, 1))
        self.register_table("from_grid", grid_to_coefficients(lmax, resolution))

    def forward(self, x: Tensor, messages: Tensor) -> Tensor:
        """Return the new signal (A, K, C') from the old one and the summed messages, both (A, K, C')."""
        grid = torch.cat([self._bands(x), self._bands(messages)], dim=-1)  # (A, G, 2 b C')
        return self.from_grid @ self.fc3(silu(self.fc2(silu(self.fc1(grid)))))

    def _bands(self, x: Tensor) -> Tensor:
        """Evaluate all bands on the grid: (A, K, C') -> (A, G, b C')."""
        return (self.to_grid @ x).view(len(x), self.grid_size, -1)
