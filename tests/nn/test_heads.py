"""Readouts over the sphere."""

import math

import pytest
import torch
from torch.nn.functional import silu

from ocp_scn.nn import SphereReadout, sphere_samples
from ocp_scn.sphere import density_weights, spherical_harmonics, spiral_points


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def test_readout_is_a_network_at_each_point():
    """W3 SiLU(W2 SiLU(W1 v)) at each point of each atom; C -> C -> C' -> 1."""
    readout, values = SphereReadout(6, 4), torch.randn(3, 5, 6)
    assert [tuple(fc.weight.shape) for fc in (readout.fc1, readout.fc2, readout.fc3)] == [
        (6, 6),
        (4, 6),
        (1, 4),
    ]
    numbers = readout(values)
    assert numbers.shape == (3, 5)
    for atom in range(3):
        for n in range(5):
            h = silu(readout.fc1.weight @ values[atom, n] + readout.fc1.bias)
            h = silu(readout.fc2.weight @ h + readout.fc2.bias)
            torch.testing.assert_close(numbers[atom, n], (readout.fc3.weight @ h + readout.fc3.bias)[0])


def test_readout_of_a_constant():
    """A signal of degree 0 has one value everywhere: the mean is that of any point, the force almost 0."""
    readout, coefficients = SphereReadout(6, 4), torch.randn(3, 1, 6)
    samples, _ = sphere_samples(128)
    numbers = readout(spherical_harmonics(samples, 0) @ coefficients)
    at_one_point = readout(coefficients / math.sqrt(4 * math.pi))
    torch.testing.assert_close(numbers, at_one_point.expand(3, 128))
    force = numbers @ samples / 128
    assert (force.abs().amax(1) < 1e-3 * at_one_point[:, 0].abs()).all()


def test_integral_of_the_direction():
    """The mean of r_n (a . r_n) is a / 3, up to the points' error."""
    (samples, _), a = sphere_samples(128), torch.tensor([0.3, -2.0, 1.1])
    torch.testing.assert_close((samples @ a) @ samples / 128, a / 3, rtol=0.02, atol=0.02)


def test_samples_are_spiral_points_times_their_weights():
    """r_n = w_n p_n, as trained weights expect."""
    points = spiral_points(100)
    expected = torch.stack([w * p for w, p in zip(density_weights(points), points, strict=True)])
    torch.testing.assert_close(sphere_samples(100)[0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("quadrature", ["spiral", "gauss"])
def test_samples_are_exact(quadrature):
    """They are made in float64, whatever the default, and the mean of 1 is 1."""
    torch.set_default_dtype(torch.float32)
    samples, weights = sphere_samples(128, quadrature)
    assert samples.dtype == weights.dtype == torch.float64
    assert weights.sum().item() == pytest.approx(1, abs=1e-14)


def test_gauss_samples_integrate_exactly():
    """Their mean of products of harmonics up to degree 15 in all is exact: orthonormal to rounding."""
    samples, weights = sphere_samples(128, "gauss")
    values = spherical_harmonics(samples, 7)
    gram = 4 * math.pi * (values * weights[:, None]).T @ values
    torch.testing.assert_close(gram, torch.eye(64), rtol=0, atol=1e-13)
    spiral, uniform = sphere_samples(128)
    rough = spherical_harmonics(spiral, 7)
    assert (4 * math.pi * (rough * uniform[:, None]).T @ rough - torch.eye(64)).abs().max() > 1e-2


def test_no_atoms():
    """Without atoms there is no number."""
    assert SphereReadout(6, 4)(torch.zeros(0, 5, 6)).shape == (0, 5)


def test_every_parameter_has_a_gradient():
    """Each weight affects the numbers."""
    readout = SphereReadout(6, 4)
    readout(torch.randn(3, 5, 6)).square().sum().backward()
    assert all((parameter.grad != 0).all() for parameter in readout.parameters())
