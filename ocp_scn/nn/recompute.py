"""Steps of the network that keep their inputs for the backward pass instead of what they compute inside.

A layer's memory in training is then little more than the inputs of its matrix products' cheap
preparations; no matrix product of the network is done twice. Derivatives of any order are right,
because a backward pass here is made of differentiable operations on those inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

Prepare = Callable[..., tuple[Tensor, ...]]


def linears(prepare: Prepare, weights: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return u_k @ weights[k].T for (u_0, u_1, ...) = prepare(*inputs), keeping inputs but no u_k.

    Args:
        prepare: cheap and differentiable; computed again in the backward pass. It must depend on
            no other tensor that requires a gradient.
        weights: (out_k, in_k) each.
        inputs: tensors that ``prepare`` takes.

    Returns:
        One tensor (..., out_k) for each weight.
    """
    return _Linears.apply(prepare, len(weights), *weights, *inputs)


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), keeping inputs but nothing from inside; like :func:`linears` otherwise."""
    return _Recomputed.apply(function, *inputs)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepare: Prepare, num_weights: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.prepare, ctx.num_weights = prepare, num_weights
        ctx.save_for_backward(*tensors)
        weights, inputs = tensors[:num_weights], tensors[num_weights:]
        return tuple(linear(u, w) for u, w in zip(prepare(*inputs), weights, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        n = ctx.num_weights
        weights, inputs = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        needs_weight, needs_input = ctx.needs_input_grad[2 : 2 + n], ctx.needs_input_grad[2 + n :]
        keep = torch.is_grad_enabled()
        prepared, sources = _again(ctx.prepare, inputs, needs_input, keep)
        for_weights = [
            g.flatten(0, -2).mT @ u.flatten(0, -2) if needed else None
            for g, u, needed in zip(gradients, prepared, needs_weight, strict=True)
        ]
        products = [g @ w for g, w in zip(gradients, weights, strict=True)] if any(needs_input) else []
        return None, None, *for_weights, *_pull_back(prepared, sources, products, needs_input, keep)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs_input, keep = ctx.needs_input_grad[1:], torch.is_grad_enabled()
        result, sources = _again(lambda *x: (ctx.function(*x),), ctx.saved_tensors, needs_input, keep)
        return None, *_pull_back(result, sources, [gradient], needs_input, keep)


def _again(
    prepare: Prepare, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], keep: bool
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Compute ``prepare`` again, with a graph; return the results and where the graph starts."""
    if keep:
        # To be differentiated again the graph goes on beyond the inputs. One input may depend on another
        # there; aliases keep its derivative out of the other's.
        sources = [x.view_as(x) for x in inputs]
    else:
        sources = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
    with torch.enable_grad():
        return prepare(*sources), sources


def _pull_back(
    results: tuple[Tensor, ...],
    sources: list[Tensor],
    gradients: list[Tensor],
    needed: tuple[bool, ...],
    keep: bool,
) -> list[Tensor | None]:
    """Return the derivatives of sum(results * gradients) by the needed sources, None for the others."""
    wanted = [x for x, need in zip(sources, needed, strict=True) if need]
    if not wanted:
        return [None] * len(sources)
    found = iter(torch.autograd.grad(results, wanted, gradients, create_graph=keep, allow_unused=True))
    return [next(found) if need else None for need in needed]
