"""SiLU of biased values by kernels and without."""

import pytest
import torch
from torch.nn import functional

from ocp_scn import kernels
from ocp_scn.nn.activations import average_of_activated, gated, silu, silu_of_own
from ocp_scn.nn.taps import OneTap, Taps
from tests.kernels import needs_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_derivatives(dtype, biased):
    """Values, first and second derivatives are torch's."""
    inputs = [torch.randn(6, 5, dtype=dtype, requires_grad=True)]
    inputs += [torch.randn(5, dtype=dtype, requires_grad=True)] if biased else []
    found = []
    for function in (silu, lambda x, bias=None: functional.silu(x if bias is None else x + bias)):
        value = function(*inputs)
        first = torch.autograd.grad(value.sin().sum(), inputs, create_graph=True)
        plain = torch.autograd.grad(function(*inputs).sin().sum(), inputs)  # by the kernel
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        found.append((value, *first, *plain, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_what_requires_a_derivative_gets_one():
    """A constant input or bias has none, and without a derivative there is no graph."""
    x, bias = torch.randn(3, 4), torch.randn(4)
    assert silu(x, bias).grad_fn is None
    ones = [torch.ones(4, requires_grad=True) for _ in range(2)]  # x with no dimension but the bias's
    assert torch.equal(*torch.autograd.grad(silu(*ones).sum(), ones))
    silu(x.requires_grad_(), bias).sum().backward()
    assert bias.grad is None
    silu(x.detach(), bias.requires_grad_()).sum().backward()
    torch.testing.assert_close(bias.grad, x.grad.sum(0))
    with torch.no_grad():
        assert silu(x, bias).grad_fn is None


@pytest.mark.parametrize("with_kernels", [True, False])
def test_in_place(with_kernels, request):
    """An input is overwritten only where it may be; strided and mixed ones have the right values, too."""
    if not with_kernels:
        request.getfixturevalue("no_kernels")
    x = torch.randn(4, 6)
    expected, before = functional.silu(x), x.clone()
    torch.testing.assert_close(silu(x), expected)
    torch.testing.assert_close(silu(x.mT), expected.mT)
    torch.testing.assert_close(silu(x.bfloat16(), torch.zeros(6)), expected.bfloat16(), rtol=2**-7, atol=1e-7)
    assert torch.equal(silu_of_own(x.requires_grad_()).detach(), silu(before))
    x = x.detach()
    assert torch.equal(x, before)
    with torch.no_grad():
        assert silu_of_own(x) is x


@needs_kernels
def test_derivatives_of_means():
    """First and second derivatives of the mean of taps are those of its steps."""
    taps = Taps(2, 1, 5)
    values, bias = torch.randn(3, 5, 7 * 2, requires_grad=True), torch.randn(14, requires_grad=True)
    found = []
    for function in (
        lambda: average_of_activated(values, bias, taps),
        lambda: taps.average(functional.silu(values + bias))[:, torch.tensor(taps.by_order).argsort()],
    ):
        value = function()
        first = torch.autograd.grad(value.sin().sum(), (values, bias), create_graph=True)
        plain = torch.autograd.grad(function().sin().sum(), (values, bias))  # by the kernel
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (values, bias))
        found.append((value, *first, *plain, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture
def no_kernels():
    """Switch kernels off."""
    with kernels.disabled():
        yield


@needs_kernels
@pytest.mark.parametrize("num_taps", [1, 4])
def test_derivatives_of_gates(num_taps):
    """Values, first and second derivatives by kernels, by every input, are torch's in float64."""
    taps = OneTap(2, 1) if num_taps == 1 else Taps(2, 1, num_taps)
    shapes = [(5, 6)] if num_taps == 1 else [(5, 1, 6), (5, 2, 6)]
    inputs = [torch.randn(shape) for shape in ((6,), (5, 6), (6,), *shapes)]
    weights = [torch.randn(x.shape) for x in inputs]
    gradient = torch.randn(5, num_taps, 6)
    found = []
    for dtype in (torch.float32, torch.float64):
        taps = taps.to(dtype)
        bias, gate, gate_bias, *first = (own := [x.to(dtype).requires_grad_() for x in inputs])
        result = gated(taps, first, bias, gate, gate_bias)
        plain = torch.autograd.grad(result, own, gradient.to(dtype), retain_graph=True)
        once = torch.autograd.grad(result, own, gradient.to(dtype), create_graph=True)
        twice = torch.autograd.grad(
            sum((d * w.to(dtype)).sum() for d, w in zip(once, weights, strict=True)), own
        )
        found.append([x.detach().double() for x in (result, *plain, *once, *twice)])
    for by_kernel, exact in zip(*found, strict=True):
        torch.testing.assert_close(by_kernel, exact, rtol=1e-5, atol=1e-5)
