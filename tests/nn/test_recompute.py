"""Steps that keep their inputs only."""

import pytest
import torch
from torch.nn.functional import silu

from ocp_scn.nn.recompute import linears, recomputed


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def two_inputs(x, y):
    """Return two inputs of linear maps, both of x and y."""
    return torch.cat([silu(x), y], dim=1), x * y


def both(v, w, bias, x, y):
    """Return the two products, the first with a bias."""
    return linears(two_inputs, (v, w), bias, x, y, into=(0, 1))


def one(v, w, bias, x, y):
    """Return the sum of two products."""
    return linears(two_inputs, (v, torch.cat([w, w[:1]])), bias, x, y, into=(0, 0))


def tensors():
    """Return weights (5, 8), (4, 4), a bias (5,), and x, y (3, 4), all of which require a gradient."""
    shapes = ((5, 8), (4, 4), (5,), (3, 4), (3, 4))
    return [torch.randn(*shape, requires_grad=True) for shape in shapes]


def test_values_and_derivatives():
    """Products, first and second derivatives are those of the same steps written out."""
    inputs = tensors()
    for function in (both, one):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
    v, w, bias, x, y = inputs
    first, second = both(*inputs)
    torch.testing.assert_close(first, torch.cat([silu(x), y], dim=1) @ v.T + bias)
    torch.testing.assert_close(second, (x * y) @ w.T)
    torch.testing.assert_close(one(*inputs)[0], first + (x * y) @ torch.cat([w, w[:1]]).T)
    assert torch.autograd.gradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), inputs[3:])
    assert torch.autograd.gradgradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), inputs[3:])


def test_an_input_that_depends_on_another():
    """Second derivatives are right where an input is a function of another one."""
    v, w, bias, x, _ = tensors()

    def loss(x, steps):
        y = silu(x) * 2
        return sum(out.square().sum() for out in steps(x, y))

    def plain(x, y):
        first, second = (u @ weight.T for u, weight in zip(two_inputs(x, y), (v, w), strict=True))
        return first + bias, second

    found = []
    for steps in (plain, lambda x, y: both(v, w, bias, x, y)):
        (first,) = torch.autograd.grad(loss(x, steps), x, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), (x, v, w, bias))))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_inputs_without_a_gradient():
    """Only what requires a gradient gets one, and without any there is no graph."""
    v, w, bias, x, y = tensors()
    both(v.detach(), w, bias, x.detach(), y)[0].sum().backward()
    assert x.grad is None
    assert v.grad is None
    assert y.grad is not None
    assert not w.grad.any()  # its product was not used
    with torch.no_grad():
        assert both(v, w, bias, x, y)[0].grad_fn is None


def test_what_is_kept():
    """The inputs are saved for the backward pass, and nothing of what is prepared from them."""
    inputs = tensors()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        both(*inputs)
        recomputed(lambda a: silu(silu(a)), inputs[3])
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (*inputs, inputs[3])]
