"""Transforms between coefficients and values on a grid of R latitudes x (R + 1) longitudes.

The transforms are e3nn's ``ToS2Grid`` and ``FromS2Grid`` (normalisation ``integral``), each as one
matrix: with the few degrees of SCN a single matrix product is fastest. The transform of a signal of degree
<= L to the grid and back is exact. Published models have R = 2 (L + 1). On a finer grid, fewer of a nonlinear
function's degrees above L are aliased.
"""

from __future__ import annotations

import torch
from e3nn.o3 import FromS2Grid, ToS2Grid
from torch import Tensor

from ocp_scn.sphere.tables import default_dtype


def grid_points_shape(lmax: int, resolution: int = 0) -> tuple[int, int]:
    """Return the grid's (latitudes, longitudes) for signals up to degree ``lmax``.

    Raises:
        ValueError: for a ``resolution`` (latitudes; 0 means 2 (lmax + 1)) that is odd or too small.
    """
    latitudes = resolution or 2 * (lmax + 1)
    if latitudes % 2 or latitudes < 2 * (lmax + 1):
        raise ValueError(f"resolution={resolution}; expected an even number from {2 * (lmax + 1)}")
    return latitudes, latitudes + 1


def coefficients_to_grid(lmax: int, resolution: int = 0) -> Tensor:
    """Return the matrix that evaluates a signal on the grid.

    Args:
        lmax: largest degree, inclusive.
        resolution: latitudes; 0 means 2 (lmax + 1).

    Returns:
        (G, (lmax + 1)**2), float64; G = latitudes x longitudes, latitude major.
    """
    shape = grid_points_shape(lmax, resolution)
    with default_dtype(torch.float64):  # parts of e3nn's tables are made in the default dtype
        transform = ToS2Grid(lmax, shape, normalization="integral", dtype=torch.float64)
    size = (lmax + 1) ** 2
    return transform(torch.eye(size, dtype=torch.float64)).reshape(size, -1).T.contiguous()


def grid_to_coefficients(lmax: int, resolution: int = 0) -> Tensor:
    """Return the matrix that projects grid values onto the degrees 0..``lmax``.

    Args:
        lmax: largest degree, inclusive.
        resolution: latitudes; 0 means 2 (lmax + 1).

    Returns:
        ((lmax + 1)**2, G), float64, the left inverse of `coefficients_to_grid`.
    """
    shape = grid_points_shape(lmax, resolution)
    with default_dtype(torch.float64):
        transform = FromS2Grid(shape, lmax, normalization="integral", dtype=torch.float64)
    size = shape[0] * shape[1]
    return transform(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).T.contiguous()
