"""Real spherical harmonics against their defining identities and e3nn."""

import math

import pytest
import torch
from e3nn import o3

from ocp_scn.sphere import kept_orders, num_coefficients, spherical_harmonics
from tests.quadratures import gauss_quadrature


def vectors(count=200):
    return torch.randn(count, 3, dtype=torch.float64)


@pytest.mark.parametrize("lmax", range(11))
def test_values_are_those_of_e3nn(lmax):
    """Y(v) = o3.spherical_harmonics(0..lmax, v, normalize=False), also off the unit sphere."""
    v = 1.3 * torch.nn.functional.normalize(vectors(), dim=-1)
    torch.testing.assert_close(
        spherical_harmonics(v, lmax),
        o3.spherical_harmonics(list(range(lmax + 1)), v, normalize=False),
        rtol=1e-12,
        atol=1e-11,
    )


def test_degree_one_is_the_vector():
    """Degree 0 is 1 / sqrt(4 pi); the components of degree 1 are sqrt(3 / 4 pi) (x, y, z)."""
    v = vectors(5)
    values = spherical_harmonics(v, 1)
    torch.testing.assert_close(values[:, 0], torch.full((5,), math.sqrt(1 / (4 * math.pi))).double())
    torch.testing.assert_close(values[:, 1:], math.sqrt(3 / (4 * math.pi)) * v)


def test_homogeneity():
    """Y_lm(r v) = r^l Y_lm(v)."""
    v, r = vectors(20), 1.7
    degrees = torch.tensor([degree for degree, _ in kept_orders(10, 10)], dtype=torch.float64)
    torch.testing.assert_close(spherical_harmonics(r * v, 10), r**degrees * spherical_harmonics(v, 10))


def test_parity():
    """Y_lm(-v) = (-1)^l Y_lm(v)."""
    v = vectors(20)
    sign = torch.tensor([(-1.0) ** degree for degree, _ in kept_orders(10, 10)], dtype=torch.float64)
    torch.testing.assert_close(spherical_harmonics(-v, 10), sign * spherical_harmonics(v, 10))


@pytest.mark.parametrize("lmax", [0, 1, 4, 10])
def test_orthonormality(lmax):
    """The integral of Y_lm Y_l'm' over the unit sphere is 1 for equal and 0 for different pairs."""
    points, weights = gauss_quadrature(2 * lmax)
    values = spherical_harmonics(points, lmax)
    gram = values.T @ (weights[:, None] * values)
    torch.testing.assert_close(gram, torch.eye((lmax + 1) ** 2, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", range(11))
def test_sum_rule(degree):
    """The sum over m of Y_lm(v)^2 is (2 l + 1) / (4 pi) on the unit sphere, at the poles too."""
    points = torch.cat([torch.nn.functional.normalize(vectors(), dim=-1), torch.eye(3).double()])
    square = spherical_harmonics(points, degree)[:, degree**2 :].square().sum(-1)
    torch.testing.assert_close(square, torch.full_like(square, (2 * degree + 1) / (4 * math.pi)))


@pytest.mark.parametrize(("lmax", "mmax"), [(0, 0), (3, 0), (6, 1), (10, 2), (4, 4), (3, 7)])
def test_kept_orders_are_columns_of_all_orders(lmax, mmax):
    """Keeping |m| <= mmax picks the columns l*l + l + m of all orders, in their order."""
    pairs = kept_orders(lmax, mmax)
    assert pairs == [(k, m) for k in range(lmax + 1) for m in range(-k, k + 1) if abs(m) <= mmax]
    assert num_coefficients(lmax, mmax) == len(pairs) == sum(2 * min(k, mmax) + 1 for k in range(lmax + 1))
    assert num_coefficients(lmax) == (lmax + 1) ** 2
    v = vectors(10)
    columns = [degree * degree + degree + order for degree, order in pairs]
    torch.testing.assert_close(
        spherical_harmonics(v, lmax, mmax), spherical_harmonics(v, lmax)[:, columns], rtol=0, atol=0
    )


def test_leading_axes_are_kept():
    """Points (2, 5, 3) give values (2, 5, S) of the same points in a row."""
    v = vectors(10)
    torch.testing.assert_close(
        spherical_harmonics(v.view(2, 5, 3), 3, 1),
        spherical_harmonics(v, 3, 1).view(2, 5, -1),
        rtol=0,
        atol=0,
    )


def test_gradient():
    """Derivatives agree with finite differences, at the poles and at the origin too."""
    special = torch.tensor([[0, 1, 0], [0, -1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    v = torch.cat([special, vectors(3)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: spherical_harmonics(p, 5), v)


@pytest.mark.parametrize(("lmax", "bound"), [(6, 2e-6), (10, 5e-6)])
def test_float32_accuracy(lmax, bound):
    """Values in float32 differ from those in float64 by rounding only, on the unit sphere."""
    v = torch.nn.functional.normalize(vectors(1000), dim=-1).float()
    error = spherical_harmonics(v, lmax).double() - spherical_harmonics(v.double(), lmax)
    assert error.abs().max() <= bound
