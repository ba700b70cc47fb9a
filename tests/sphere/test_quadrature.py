"""Points and weights on the unit sphere."""

import math

import pytest
import torch

from ocp_scn.sphere import (
    density_weights,
    gauss_quadrature,
    scale_points,
    spherical_harmonics,
    spiral_points,
)


@pytest.mark.parametrize("num_points", [1, 2, 20, 128, 1000])
def test_points_are_unit_vectors(num_points):
    """N different points of length 1."""
    points = spiral_points(num_points)
    assert points.shape == (num_points, 3)
    assert points.dtype == torch.float64
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(num_points).double(), rtol=0, atol=1e-14)
    assert len(points.unique(dim=0)) == num_points


def test_spiral():
    """Point i has the height 1 - 2 (i + 1/2) / N along z and the azimuth 2 pi i / golden ratio about it."""
    points, golden = spiral_points(50), (1 + 5**0.5) / 2
    for i, (x, y, z) in enumerate(points.tolist()):
        assert z == pytest.approx(1 - 2 * (i + 0.5) / 50, abs=1e-14)
        turns = math.atan2(y, x) / (2 * math.pi) - i / golden
        assert turns - round(turns) == pytest.approx(0, abs=1e-12)


def test_no_points():
    """A quadrature without points is an error that names the value."""
    with pytest.raises(ValueError, match="num_points=0; expected at least 1"):
        spiral_points(0)


@pytest.mark.parametrize("num_points", [1, 7, 128])
def test_weights_have_mean_one(num_points):
    """Weights are positive and their mean is 1."""
    weights = density_weights(spiral_points(num_points))
    assert (weights > 0).all()
    assert weights.mean().item() == pytest.approx(1, abs=1e-14)


def test_weights_are_inverse_densities():
    """w_i is proportional to 1 / sum_j exp(-|p_i - p_j|^2 / 0.15)."""
    points = torch.nn.functional.normalize(torch.randn(30, 3, dtype=torch.float64), dim=-1)
    inverse = [1 / sum(math.exp(-((p - q) ** 2).sum().item() / 0.15) for q in points) for p in points]
    expected = torch.tensor([30 * q / sum(inverse) for q in inverse], dtype=torch.float64)
    torch.testing.assert_close(density_weights(points), expected, rtol=1e-12, atol=0)


def test_a_doubled_point_has_half_the_weight():
    """Of three far points, one counted twice, the two copies share what the others have."""
    x, y, z = torch.eye(3, dtype=torch.float64)
    weights = density_weights(torch.stack([x, x, y, -y, z]))
    assert weights[0] == weights[1]
    assert (weights[0] / weights[2]).item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("degree", range(1, 7))
def test_integrals_converge(degree):
    """Means of harmonics of low degree go to 0, faster than with random points (1 / sqrt N)."""

    def largest(num_points):
        points = spiral_points(num_points)
        weights = density_weights(points)
        values = spherical_harmonics(points, degree)[:, degree**2 :]
        return max(values.mean(0).abs().max(), (weights[:, None] * values).mean(0).abs().max()).item()

    coarse, fine = largest(128), largest(2048)
    assert coarse < 0.012
    assert fine < coarse / 8


def test_scaled_points_have_the_weights_as_lengths():
    """scale_points(p, w) points along p and has the length w; for N = 128 within 2 % of 1."""
    points = spiral_points(128)
    weights = density_weights(points)
    scaled = scale_points(points, weights)
    torch.testing.assert_close(scaled.norm(dim=-1), weights, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(scaled, dim=-1), points, rtol=0, atol=1e-14)
    assert (weights - 1).abs().max() < 0.02


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_gauss_quadrature_is_exact(n):
    """2 n^2 points integrate every harmonic of degree 1..2 n - 1 to zero, and no better."""
    points, weights = gauss_quadrature(2 * n * n)
    assert points.shape == (2 * n * n, 3)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(2 * n * n).double())
    assert weights.mean().item() == pytest.approx(1)
    integrals = weights @ spherical_harmonics(points, 2 * n)
    assert integrals[1 : 4 * n * n].abs().max() < 1e-12 * n * n
    assert integrals[4 * n * n :].abs().max() > 1e-3


@pytest.mark.parametrize("number", [0, 1, 7, 100, -8])
def test_gauss_quadrature_of_another_size(number):
    """Other numbers than 2 n^2 are refused."""
    with pytest.raises(ValueError, match=rf"num_points={number}; expected 2 n\^2"):
        gauss_quadrature(number)
