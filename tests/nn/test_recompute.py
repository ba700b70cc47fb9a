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


BLOCKS = torch.tensor([2, 0, 1])  # of four columns: the inputs' parts are 8-11 and 0-3, and 4-7


def two(weight, x, y):
    """Return the two products."""
    return linears(two_inputs, weight, x, y, blocks=BLOCKS)


def one(weight, x, y):
    """Return the product of one input with a whole matrix."""
    return linears(lambda x, y: two_inputs(x, y)[:1], weight[:, :8], x, y)


def plain(weight, x, y):
    """Return what :func:`two` returns, written out."""
    first, second = two_inputs(x, y)
    return first @ torch.cat([weight[:, 8:], weight[:, :4]], dim=1).T, second @ weight[:, 4:8].T


def tensors():
    """Return a weight (5, 12), and x, y (3, 4), all of which require a gradient."""
    return [torch.randn(*shape, requires_grad=True) for shape in ((5, 12), (3, 4), (3, 4))]


def test_values_and_derivatives():
    """Products, first and second derivatives are those of the same steps written out."""
    inputs = tensors()
    for function in (two, one):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
    torch.testing.assert_close(two(*inputs), plain(*inputs))
    weight, x, y = inputs
    torch.testing.assert_close(one(*inputs), (two_inputs(x, y)[0] @ weight[:, :8].T,))
    assert torch.autograd.gradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: recomputed(lambda a, b: silu(a) * b, x, y), (x, y))


def test_an_input_that_depends_on_another():
    """Second derivatives are right where an input is a function of another one."""
    weight, x, _ = tensors()
    found = []
    for steps in (plain, two):
        loss = sum(out.square().sum() for out in steps(weight, x, silu(x) * 2))
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), (x, weight))))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_inputs_without_a_gradient():
    """Only what requires a gradient gets one, and without any there is no graph."""
    weight, x, y = tensors()
    two(weight, x.detach(), y)[0].sum().backward()
    assert x.grad is None
    assert y.grad is not None
    assert not weight.grad[:, 4:8].any()  # its product was not used
    assert weight.grad[:, 8:].any()
    two(weight.detach(), x, y)[0].sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert two(weight, x, y)[0].grad_fn is None


def test_what_is_kept():
    """The inputs are saved for the backward pass, and nothing of what is made of them."""
    inputs = tensors()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        two(*inputs)
        recomputed(lambda a: silu(silu(a)), inputs[1])
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (*inputs, inputs[1])]
