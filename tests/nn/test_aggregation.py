"""The grid network of an atom, point by point."""

import pytest
import torch
from torch.nn.functional import silu

from ocp_scn.nn import GridAggregation, aggregation
from ocp_scn.sphere import polar_rotation, spherical_harmonics, wigner_rows
from tests.messages import rotate_rows
from tests.quadratures import network_grid

ATOMS, CHANNELS = 3, 2


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def aggregation_for(lmax, num_bands):
    """Return a block with weights large enough for every non-linearity to matter."""
    block = GridAggregation(lmax=lmax, num_bands=num_bands, channels=CHANNELS)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return block


def signals(lmax):
    return torch.randn(2, ATOMS, (lmax + 1) ** 2, CHANNELS).unbind()


@pytest.mark.parametrize("together", [True, False], ids=["one product", "one product an atom"])
@pytest.mark.parametrize(("lmax", "num_bands"), [(1, 1), (2, 3), (4, 1), (4, 2)])
def test_one_point_after_the_other(lmax, num_bands, together, monkeypatch):
    """At each grid point: all bands of x, all bands of the messages, the network; then the integral."""
    monkeypatch.setattr(aggregation, "large_products_pay", lambda x: together)
    block, (x, messages) = aggregation_for(lmax, num_bands), signals(lmax)
    points, weights = network_grid(lmax)
    harmonics = spherical_harmonics(points, lmax)
    for atom, value in enumerate(block(x, messages)):
        expected = 0
        for y, weight in zip(harmonics, weights, strict=True):
            at_point = []
            for signal in (x[atom], messages[atom]):
                for band in range(num_bands):
                    cut = (lmax + 1 - band) ** 2
                    at_point.append(y[:cut] @ signal[:cut])
            g = torch.cat(at_point)
            g = silu(block.fc1.weight @ g + block.fc1.bias)
            g = silu(block.fc2.weight @ g + block.fc2.bias)
            g = block.fc3.weight @ g + block.fc3.bias
            expected = expected + weight * y[:, None] * g
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-11)


def test_derivatives_of_one_product(monkeypatch):
    """Transforms of all atoms at once have the derivatives of those of one after the other."""
    block, found = aggregation_for(2, 2), []
    inputs = [x.requires_grad_() for x in signals(2)] + list(block.parameters())
    for together in (True, False):
        monkeypatch.setattr(aggregation, "large_products_pay", lambda x, together=together: together)
        found.append(torch.autograd.grad(block(*inputs[:2]).sin().sum(), inputs))
    for derivative, other in zip(*found, strict=True):
        torch.testing.assert_close(derivative, other, rtol=1e-10, atol=1e-11)


def test_sizes_of_maps():
    """Maps are 2 b C' -> 2 b C' -> 2 C' -> C'."""
    block = GridAggregation(lmax=3, num_bands=2, channels=5)
    sizes = [tuple(layer.weight.shape) for layer in (block.fc1, block.fc2, block.fc3)]
    assert sizes == [(20, 20), (10, 20), (5, 10)]


def test_atoms_do_not_mix():
    """The update of an atom depends on its own signals only."""
    block, (x, messages) = aggregation_for(3, 2), signals(3)
    alone = torch.cat([block(x[i : i + 1], messages[i : i + 1]) for i in range(ATOMS)])
    torch.testing.assert_close(block(x, messages), alone, rtol=1e-12, atol=1e-13)


def test_turning_by_a_step_of_the_grid():
    """A turn about the pole by one longitude permutes the grid, so the update turns along exactly."""
    lmax = 3
    block, (x, messages) = aggregation_for(lmax, 2), signals(lmax)
    step = torch.full((ATOMS,), 2 * torch.pi / (2 * (lmax + 1) + 1))
    turn = wigner_rows(polar_rotation(step), lmax, lmax)
    torch.testing.assert_close(
        block(rotate_rows(turn, x), rotate_rows(turn, messages)),
        rotate_rows(turn, block(x, messages)),
        rtol=1e-11,
        atol=1e-11,
    )


def test_every_parameter_has_a_gradient():
    """Each weight affects the update."""
    block, (x, messages) = aggregation_for(3, 2), signals(3)
    block(x, messages).square().sum().backward()
    assert all((parameter.grad != 0).all() for parameter in block.parameters())


def test_exact_after_conversion():
    """Built in float32 and turned into float64, the block computes what one built in float64 does."""
    double = aggregation_for(4, 2)
    torch.set_default_dtype(torch.float32)
    single = GridAggregation(lmax=4, num_bands=2, channels=CHANNELS).double()
    single.load_state_dict(double.state_dict())
    torch.set_default_dtype(torch.float64)
    x, messages = signals(4)
    torch.testing.assert_close(single(x, messages), double(x, messages), rtol=1e-12, atol=1e-13)
