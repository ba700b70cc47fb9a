"""Coefficients on a sphere grid and back."""

import pytest
import torch

from ocp_scn.sphere import coefficients_to_grid, grid_points_shape, grid_to_coefficients, spherical_harmonics
from tests.quadratures import network_grid


def coefficients(lmax, channels=3):
    return torch.randn((lmax + 1) ** 2, channels, dtype=torch.float64)


@pytest.mark.parametrize("lmax", range(1, 11))
def test_grid_and_back_is_the_identity(lmax):
    """A signal of degree <= L comes back from the grid unchanged."""
    product = grid_to_coefficients(lmax) @ coefficients_to_grid(lmax)
    torch.testing.assert_close(product, torch.eye((lmax + 1) ** 2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lmax", [1, 4, 6, 10])
def test_grid_values_are_the_harmonics_at_its_points(lmax):
    """Coefficient (l, m) contributes Y_lm(point), points by latitude, then by longitude."""
    points, _ = network_grid(lmax)
    latitudes, longitudes = grid_points_shape(lmax)
    assert (latitudes, longitudes) == (2 * (lmax + 1), 2 * (lmax + 1) + 1)
    torch.testing.assert_close(
        coefficients_to_grid(lmax), spherical_harmonics(points, lmax), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("lmax", [1, 4, 6, 10])
def test_projection_is_the_integral_with_the_harmonics(lmax):
    """A coefficient is the integral of Y_lm times the values, whatever their degree."""
    points, weights = network_grid(lmax)
    expected = spherical_harmonics(points, lmax).T * weights
    torch.testing.assert_close(grid_to_coefficients(lmax), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("lmax", "resolution"), [(1, 6), (4, 12), (6, 28)])
def test_finer_grids(lmax, resolution):
    """A finer grid has R x (R + 1) points and loses nothing either; degrees above lmax fold back less."""
    to_grid, from_grid = coefficients_to_grid(lmax, resolution), grid_to_coefficients(lmax, resolution)
    assert grid_points_shape(lmax, resolution) == (resolution, resolution + 1)
    assert to_grid.shape == (resolution * (resolution + 1), (lmax + 1) ** 2)
    torch.testing.assert_close(from_grid @ to_grid, torch.eye((lmax + 1) ** 2).double(), rtol=0, atol=1e-12)
    # The cube of a signal has degrees up to 3 lmax; the finest grid projects it exactly.
    c = coefficients(lmax, 1)

    def projected(resolution):
        values = coefficients_to_grid(lmax, resolution) @ c
        return grid_to_coefficients(lmax, resolution) @ values**3

    exact = projected(6 * (lmax + 1))
    torch.testing.assert_close(projected(4 * (lmax + 1)), exact, rtol=1e-10, atol=1e-10)
    assert (projected(0) - exact).abs().max() > 1e-6


@pytest.mark.parametrize("resolution", [7, 4, -2])
def test_resolution_out_of_range(resolution):
    """An odd number of latitudes, or one too small for the degrees, is an error that names the value."""
    with pytest.raises(ValueError, match=rf"resolution={resolution}; expected an even number from 8"):
        grid_points_shape(3, resolution)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_tables_are_float64_whatever_the_default(default):
    """Tables are exact in float64 under either default dtype."""
    torch.set_default_dtype(default)
    product = grid_to_coefficients(5) @ coefficients_to_grid(5)
    assert product.dtype == torch.float64
    torch.testing.assert_close(product, torch.eye(36, dtype=torch.float64), rtol=0, atol=1e-12)
