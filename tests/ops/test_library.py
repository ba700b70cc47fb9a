"""The operators as torch knows them: schemas, shapes without data, derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ocp_scn import ops
from ocp_scn.ops import reference
from tests.ops.operators import FAST, arguments

# What of an operator's arguments has no derivative: tables that only depend on the settings.
TABLES = {"gate": (-4,), "gate_backward": (-4,), "tap_mean": (-3, -2), "tap_mean_backward": (-3, -2)}
NAMES = [name for name, _ in arguments(FAST[0], torch.float64)]


def differentiable(name: str, values: list[Any]) -> tuple[Any, list[Tensor]]:
    """Return an operator as a function of its tensors that have derivatives, and these."""
    tables = {len(values) + k for k in TABLES.get(name, ())}
    places: list[tuple[int, int | None]] = []
    for k, value in enumerate(values):
        if isinstance(value, list):
            places += [(k, j) for j in range(len(value))]
        elif isinstance(value, Tensor) and value.is_floating_point() and k not in tables:
            places.append((k, None))

    def function(*tensors: Tensor) -> Any:
        changed = [list(value) if isinstance(value, list) else value for value in values]
        for (k, j), tensor in zip(places, tensors, strict=True):
            if j is None:
                changed[k] = tensor
            else:
                changed[k][j] = tensor
        found = getattr(ops, name)(*changed)
        return tuple(found) if isinstance(found, list) else found

    tensors = [values[k] if j is None else values[k][j] for k, j in places]
    return function, [t.detach().clone().requires_grad_() for t in tensors]


def cases(sizes, dtype, **kwargs):
    return [(name, values) for size in sizes for name, values in arguments(size, dtype, **kwargs)]


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("size", FAST, ids=str)
def test_derivatives_of_first_and_second_order(size, number):
    """gradcheck and gradgradcheck in float64."""
    name, values = list(arguments(size, torch.float64, wide=torch.float64))[number]
    function, tensors = differentiable(name, values)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_opcheck(number):
    """Schemas say what happens to arguments, shapes are right without data, and compilers can use them."""
    for dtype in (torch.float32, torch.bfloat16):
        for size in FAST:
            name, values = list(arguments(size, dtype))[number]
            _, tensors = differentiable(name, values)
            for requires in (False, True):
                for tensor in tensors:
                    tensor.requires_grad_(requires)
                torch.library.opcheck(getattr(ops, name), _with(name, values, tensors))


def _with(name, values, tensors):
    tables = {len(values) + k for k in TABLES.get(name, ())}
    left = iter(tensors)
    new = []
    for k, value in enumerate(values):
        if isinstance(value, list):
            new.append([next(left) for _ in value])
        elif isinstance(value, Tensor) and value.is_floating_point() and k not in tables:
            new.append(next(left))
        else:
            new.append(value)
    return tuple(new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coefficients_of_edges_in_another_dtype(dtype):
    """They are computed in the dtype of the Wigner matrices, and rounded once."""
    found = dict(arguments(FAST[0], torch.float64))
    *inputs, _ = found["node_to_edge"]
    exact = reference.node_to_edge(*inputs, torch.float64)
    assert torch.equal(reference.node_to_edge(*inputs, dtype), exact.to(dtype))
