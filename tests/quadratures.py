"""Integrals over the unit sphere that are exact up to a degree, written without the package."""

import math

import numpy as np
import torch
from torch import Tensor


def gauss_quadrature(degree: int) -> tuple[Tensor, Tensor]:
    """Return points (P, 3) and weights (P,) that integrate polynomials up to ``degree`` exactly.

    Gauss-Legendre nodes along +y times evenly spaced azimuths.
    """
    heights, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    azimuths = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    points = _points(np.arccos(heights), azimuths)
    return points, torch.tensor(np.repeat(weights, degree + 1) * 2 * np.pi / (degree + 1))


def network_grid(lmax: int) -> tuple[Tensor, Tensor]:
    """Return the points (G, 3) of the aggregation's grid, latitude major, and their weights (G,).

    The latitudes are fixed, polar angles (i + 1/2) pi / 2(L + 1); the weights are the only ones
    with which polynomials up to degree 2 L + 1 are integrated exactly.
    """
    num_latitudes, num_longitudes = 2 * (lmax + 1), 2 * (lmax + 1) + 1
    polar = (np.arange(num_latitudes) + 0.5) * np.pi / num_latitudes
    legendre = np.polynomial.legendre.legvander(np.cos(polar), num_latitudes - 1).T  # P_k at latitude i
    integrals = np.zeros(num_latitudes)
    integrals[0] = 2.0
    weights = np.linalg.solve(legendre, integrals) * 2 * math.pi / num_longitudes
    points = _points(polar, 2 * np.pi * np.arange(num_longitudes) / num_longitudes)
    return points, torch.tensor(np.repeat(weights, num_longitudes))


def _points(polar: np.ndarray, azimuths: np.ndarray) -> Tensor:
    """Return unit vectors from polar angles from +y and azimuths from +z to +x."""
    angle, azimuth = (values.ravel() for values in np.meshgrid(polar, azimuths, indexing="ij"))
    sine = np.sin(angle)
    return torch.tensor(np.stack([sine * np.sin(azimuth), np.cos(angle), sine * np.cos(azimuth)], axis=1))
