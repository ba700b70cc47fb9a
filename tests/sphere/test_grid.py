"""Coefficients on a sphere grid and back."""

import pytest
import torch

from ocp_scn.sphere import band_to_grid, grid_points_shape, grid_to_coefficients, spherical_harmonics
from tests.quadratures import network_grid


def coefficients(lmax, channels=3):
    return torch.randn((lmax + 1) ** 2, channels, dtype=torch.float64)


@pytest.mark.parametrize("lmax", range(1, 11))
def test_grid_and_back_is_the_identity(lmax):
    """A signal of degree <= L comes back from the grid unchanged."""
    product = grid_to_coefficients(lmax) @ band_to_grid(lmax, 1)[:, 0]
    torch.testing.assert_close(product, torch.eye((lmax + 1) ** 2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lmax", [1, 4, 6, 10])
def test_grid_values_are_the_harmonics_at_its_points(lmax):
    """Coefficient (l, m) contributes Y_lm(point), points by latitude, then by longitude."""
    points, _ = network_grid(lmax)
    latitudes, longitudes = grid_points_shape(lmax)
    assert (latitudes, longitudes) == (2 * (lmax + 1), 2 * (lmax + 1) + 1)
    torch.testing.assert_close(
        band_to_grid(lmax, 1)[:, 0], spherical_harmonics(points, lmax), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("lmax", [1, 4, 6, 10])
def test_projection_is_the_integral_with_the_harmonics(lmax):
    """A coefficient is the integral of Y_lm times the values, whatever their degree."""
    points, weights = network_grid(lmax)
    expected = spherical_harmonics(points, lmax).T * weights
    torch.testing.assert_close(grid_to_coefficients(lmax), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("lmax", [1, 3, 6])
def test_bands_are_truncations(lmax):
    """Band j is the signal cut to the degrees 0..L - j; all L + 1 bands are allowed."""
    c = coefficients(lmax)
    bands = band_to_grid(lmax, lmax + 1)
    assert bands.shape == (2 * (lmax + 1) * (2 * (lmax + 1) + 1), lmax + 1, (lmax + 1) ** 2)
    full = bands[:, 0]
    for j in range(lmax + 1):
        cut = c.clone()
        cut[(lmax + 1 - j) ** 2 :] = 0
        torch.testing.assert_close(bands[:, j] @ c, full @ cut, rtol=0, atol=1e-13)


def test_fewer_bands_are_the_first_of_more():
    """band_to_grid(L, b) is the first b bands of band_to_grid(L, L + 1)."""
    torch.testing.assert_close(band_to_grid(4, 2), band_to_grid(4, 5)[:, :2], rtol=0, atol=0)


@pytest.mark.parametrize("num_bands", [-1, 0, 5])
def test_number_of_bands_out_of_range(num_bands):
    """More than L + 1 bands, or none, is an error that names the value and the range."""
    with pytest.raises(ValueError, match=rf"num_bands={num_bands}; expected 1\.\.4"):
        band_to_grid(3, num_bands)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_tables_are_float64_whatever_the_default(default):
    """Tables are exact in float64 under either default dtype."""
    torch.set_default_dtype(default)
    product = grid_to_coefficients(5) @ band_to_grid(5, 1)[:, 0]
    assert product.dtype == torch.float64
    torch.testing.assert_close(product, torch.eye(36, dtype=torch.float64), rtol=0, atol=1e-12)
