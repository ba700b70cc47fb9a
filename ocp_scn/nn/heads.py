"""Readouts: integrals over the sphere (the paper's equations 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ocp_scn.nn.activations import silu_of_own
from ocp_scn.sphere import density_weights, gauss_quadrature, scale_points, spiral_points


def sphere_samples(num_points: int, quadrature: str = "spiral") -> tuple[Tensor, Tensor]:
    """Return the readouts' sample vectors r_n (N, 3) and the weights w_n (N,) of their mean, float64.

    ``spiral`` is what published weights expect: the points carry the weights, and the mean is plain.
    ``gauss`` has points of length 1 and weights with which the integral of a signal is exact.

    Args:
        num_points: N; with ``gauss`` 2 n^2.
        quadrature: ``spiral`` or ``gauss``.
    """
    if quadrature == "gauss":
        points, weights = gauss_quadrature(num_points)
        return points, weights / num_points
    points = spiral_points(num_points)
    uniform = torch.full((num_points,), 1 / num_points, dtype=torch.float64)
    return scale_points(points, density_weights(points)), uniform


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
        h = silu_of_own(linear(values, self.fc1.weight), self.fc1.bias)
        h = silu_of_own(linear(h, self.fc2.weight), self.fc2.bias)
        return self.fc3(h).squeeze(-1)
