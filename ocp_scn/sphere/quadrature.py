"""Points and weights on the unit sphere."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def spiral_points(num_points: int) -> Tensor:
    """Return points of a golden-ratio spiral, spread almost evenly over the unit sphere.

    Point i has the polar angle arccos(1 - 2 (i + 1/2) / N) from +z and the azimuth
    2 pi i / golden ratio about +z (R. Swinbank and R. J. Purser, Q. J. R. Meteorol. Soc. 132,
    1769 (2006)). The spiral's axis is z, unlike the polar axis of the harmonics.

    Args:
        num_points: N >= 1.

    Returns:
        (N, 3) unit vectors, float64.
    """
    if num_points < 1:
        raise ValueError(f"num_points={num_points}; expected at least 1")
    index = torch.arange(num_points, dtype=torch.float64)
    z = 1 - 2 * (index + 0.5) / num_points
    radius = torch.sqrt(1 - z * z)
    azimuth = 2 * math.pi * index / ((1 + math.sqrt(5)) / 2)
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], dim=-1)


def density_weights(points: Tensor) -> Tensor:
    """Return a weight for each point that falls with the density of points around it.

    w_i = N q_i / sum(q) with q_i = 1 / sum_j exp(-|p_i - p_j|^2 / 0.15), so the mean weight is 1.

    Args:
        points: (N, 3) unit vectors.

    Returns:
        (N,) weights.
    """
    distance2 = (points[:, None] - points[None]).square().sum(-1)
    q = 1 / torch.exp(-distance2 / 0.15).sum(-1)
    return len(points) * q / q.sum()


def scale_points(points: Tensor, weights: Tensor) -> Tensor:
    """Return ``weights * points``, the vectors at which published SCN weights were trained.

    The weights belong to the integral, not to the points. SCN as published multiplies the
    points, evaluates the harmonics of degree l on vectors whose lengths differ from 1 by up to
    2 %, and multiplies forces by the same vectors; trained weights depend on it.

    Args:
        points: (N, 3) unit vectors.
        weights: (N,) weights with mean 1.

    Returns:
        (N, 3) vectors of length ``weights``.
    """
    return points * weights[:, None]


def gauss_quadrature(num_points: int) -> tuple[Tensor, Tensor]:
    """Return points and weights that integrate exactly what the harmonics of high degree allow.

    n Gauss-Legendre nodes along the polar axis times 2 n evenly spaced azimuths integrate every
    polynomial of degree <= 2 n - 1 on the sphere exactly (https://dlmf.nist.gov/3.5#v).

    Args:
        num_points: N = 2 n^2.

    Returns:
        (N, 3) unit vectors and (N,) weights with mean 1, float64.

    Raises:
        ValueError: if N is not 2 n^2 for an integer n.
    """
    n = math.isqrt(max(num_points, 0) // 2)
    if n < 1 or 2 * n * n != num_points:
        raise ValueError(f"num_points={num_points}; expected 2 n^2, such as 8, 32, 128 or 512")
    heights, latitude_weights = np.polynomial.legendre.leggauss(n)
    y = torch.tensor(heights).repeat_interleave(2 * n)
    azimuth = (torch.arange(2 * n, dtype=torch.float64) * math.pi / n).repeat(n)
    radius = torch.sqrt(1 - y * y)
    points = torch.stack([radius * azimuth.sin(), y, radius * azimuth.cos()], dim=-1)
    return points, torch.tensor(latitude_weights).repeat_interleave(2 * n) * n / 2
