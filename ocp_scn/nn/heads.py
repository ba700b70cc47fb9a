"""Readouts: integrals over the sphere (the paper's equations 4 and 5)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from ocp_scn.sphere import density_weights, scale_points, spiral_points


def sphere_samples(num_points: int) -> Tensor:
    """Return the readouts' sample vectors r_n (N, 3), float64, scaled as trained weights expect."""
    points = spiral_points(num_points)
    return scale_points(points, density_weights(points))


class SphereReadout(nn.Module):
    """A network from an atom's channels at a point of the sphere to one number.

    Args:
        channels: C.
        channels_reduce: C'.
    """

    def __init__(self, channels: int, channels_reduce: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels_reduce)
        self.fc3 = nn.Linear(channels_reduce, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return (A, N) numbers from the signals at N points, (A, N, C)."""
        return self.fc3(silu(self.fc2(silu(self.fc1(values))))).squeeze(-1)
