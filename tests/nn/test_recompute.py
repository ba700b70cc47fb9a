"""Steps that keep their inputs, with their derivatives written out."""

import pytest
import torch
from torch.nn.functional import silu

from ocp_scn.nn.recompute import joined, recomputed


class Product:
    """x silu(y), which keeps silu(y); ``calls`` tells what was asked of it."""

    def __init__(self):
        self.calls = []

    def forward(self, x, y, keep=None):
        self.calls.append("forward")
        activated = silu(y)
        if keep is not None:
            keep.append(activated)
        return x * activated

    def vjp(self, gradient, kept, needed, x, y):
        self.calls.append("vjp")
        (activated,) = kept
        sigmoid = torch.sigmoid(y)
        of_y = gradient * x * sigmoid * (1 + y * (1 - sigmoid))
        return [gradient * activated if needed[0] else None, of_y if needed[1] else None]


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def inputs():
    return [torch.randn(3, 4, requires_grad=True) for _ in range(2)]


def test_derivatives_of_first_and_second_order():
    """The first ones are those written out, the second ones those of the forward pass."""
    x, y = inputs()
    step = Product()
    assert torch.autograd.gradcheck(lambda *t: recomputed(step, *t), (x, y))
    assert torch.autograd.gradgradcheck(lambda *t: recomputed(step, *t), (x, y))
    step.calls.clear()
    recomputed(step, x, y).sum().backward()
    assert step.calls == ["forward", "vjp"]


@pytest.mark.parametrize("recorded", [True, False])
def test_autocast_is_off_inside(recorded):
    """Steps know the dtype of their products; autocast would change it, in either pass."""

    class Noted(Product):
        def forward(self, x, y, keep=None):
            self.calls.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x, y, keep)

        def vjp(self, gradient, kept, needed, x, y):
            self.calls.append(torch.is_autocast_enabled("cpu"))
            return super().vjp(gradient, kept, needed, x, y)

    step, (x, y) = Noted(), [t.detach().requires_grad_(recorded) for t in inputs()]
    with torch.autocast("cpu", torch.bfloat16):
        found = recomputed(step, x, y)
        if recorded:
            found.sum().backward()
    assert step.calls == ([False, "forward", False, "vjp"] if recorded else [False, "forward"])


def test_an_input_that_depends_on_another():
    """Second derivatives are right where an input is a function of another one."""
    x, _ = inputs()
    found = []
    for function in (lambda x, y: x * silu(y), lambda x, y: recomputed(Product(), x, y)):
        loss = function(x, silu(x) * 2).square().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), x)))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_inputs_without_a_gradient():
    """Only what requires a gradient gets one, and without any there is no graph."""
    x, y = inputs()
    recomputed(Product(), x.detach(), y).sum().backward()
    assert x.grad is None
    assert y.grad is not None
    assert recomputed(Product(), x.detach(), y.detach()).grad_fn is None
    with torch.no_grad():
        assert recomputed(Product(), x, y).grad_fn is None


def test_what_is_kept():
    """The inputs are saved for the backward pass, and what the step keeps itself."""
    x, y = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        recomputed(Product(), x, y)
    assert [t.data_ptr() for t in kept[:2]] == [x.data_ptr(), y.data_ptr()]
    torch.testing.assert_close(kept[2], silu(y))


def test_precision_is_the_step_s_own():
    """Autocast does not change what a step computes, forward or backward."""
    x, y = (t.detach().float().requires_grad_() for t in inputs())
    step = Product()
    step.forward = lambda x, y, keep=None: x @ y.mT
    step.vjp = lambda gradient, kept, needed, x, y: [gradient @ y, gradient.mT @ x]
    with torch.autocast("cpu", torch.bfloat16):
        value = recomputed(step, x, y)
        assert value.dtype == torch.float32
        torch.testing.assert_close(torch.autograd.grad(value.sum(), x)[0], y.sum(0).expand(3, 4))


def test_joined():
    """Parts come one after the other along a dimension; a single one is not copied."""
    x = torch.randn(4, 6)
    assert joined([x]) is x
    assert torch.equal(joined(x.split([1, 3])), x)
    assert torch.equal(joined(x.split([1, 2, 3], dim=1), dim=1), x)
