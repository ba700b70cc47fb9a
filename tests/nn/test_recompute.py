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


def tensors():
    """Return x, y (3, 4) and weights (5, 8), (6, 4), all of which require a gradient."""
    return [torch.randn(*shape, requires_grad=True) for shape in ((3, 4), (3, 4), (5, 8), (6, 4))]


def test_values_and_derivatives():
    """Products, first and second derivatives are those of the same steps written out."""
    inputs = tensors()
    assert torch.autograd.gradcheck(lambda x, y, v, w: linears(two_inputs, (v, w), x, y), inputs)
    assert torch.autograd.gradgradcheck(lambda x, y, v, w: linears(two_inputs, (v, w), x, y), inputs)
    x, y, v, w = inputs
    first, second = linears(two_inputs, (v, w), x, y)
    torch.testing.assert_close(first, torch.cat([silu(x), y], dim=1) @ v.T)
    torch.testing.assert_close(second, (x * y) @ w.T)
    assert torch.autograd.gradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), inputs[:2])
    assert torch.autograd.gradgradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), inputs[:2])


def test_an_input_that_depends_on_another():
    """Second derivatives are right where an input is a function of another one."""
    x, _, v, w = tensors()

    def loss(x, steps):
        y = silu(x) * 2
        return sum(out.square().sum() for out in steps(x, y))

    def plain(x, y):
        return [u @ weight.T for u, weight in zip(two_inputs(x, y), (v, w), strict=True)]

    found = []
    for steps in (plain, lambda x, y: linears(two_inputs, (v, w), x, y)):
        (first,) = torch.autograd.grad(loss(x, steps), x, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), (x, v, w))))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_inputs_without_a_gradient():
    """Only what requires a gradient gets one, and without any there is no graph."""
    x, y, v, w = tensors()
    linears(two_inputs, (v.detach(), w), x.detach(), y)[0].sum().backward()
    assert x.grad is None
    assert v.grad is None
    assert y.grad is not None
    assert not w.grad.any()  # its product was not used
    with torch.no_grad():
        assert linears(two_inputs, (v, w), x, y)[0].grad_fn is None


def test_what_is_kept():
    """The inputs are saved for the backward pass, and nothing of what is prepared from them."""
    x, y, v, w = tensors()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linears(two_inputs, (v, w), x, y)
        recomputed(lambda a: silu(silu(a)), x)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (v, w, x, y, x)]
