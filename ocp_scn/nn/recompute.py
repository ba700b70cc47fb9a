"""Steps of the network that keep their inputs for the backward pass instead of what they compute inside.

A layer's memory in training is then little more than the inputs of its matrix products' cheap
preparations; no matrix product of the network is done twice. Derivatives of any order are right,
because a backward pass here is made of differentiable operations on those inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Prepare = Callable[..., Sequence[Tensor]]


def linears(
    prepare: Prepare,
    weight: Tensor,
    bias: Tensor,
    *inputs: Tensor,
    split: Callable[[Tensor], Sequence[Tensor]] = lambda weight: (weight,),
    into: Sequence[int] = (0,),
) -> tuple[Tensor, ...]:
    """Return sums of products u_k @ w_k.T for (u_0, u_1, ...) = prepare(*inputs), keeping no u_k and no w_k.

    Args:
        prepare: cheap and differentiable; computed again in the backward pass. It must depend on
            no other tensor that requires a gradient.
        weight: the matrix whose parts w_k, (out, in_k) each, multiply.
        bias: (out,) added to the first sum.
        inputs: tensors that ``prepare`` takes.
        split: returns the parts of ``weight``; computed again in the backward pass, too.
        into: for each k the number of the sum that the product belongs to, from 0.

    Returns:
        The sums, (..., out) each.
    """
    return _Linears.apply(prepare, split, tuple(into), weight, bias, *inputs)


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), keeping inputs but nothing from inside; like :func:`linears` otherwise."""
    return _Recomputed.apply(function, *inputs)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, split: Prepare, into: tuple[int, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.prepare, ctx.split, ctx.into = prepare, split, into
        ctx.precision = _autocast(tensors[0])
        ctx.save_for_backward(*tensors)
        weight, bias, *inputs = tensors
        sums: list[Tensor] = []
        for u, part, k in zip(prepare(*inputs), split(weight), into, strict=True):
            flat = u.flatten(0, -2)
            if k < len(sums):
                total = torch.addmm(sums[k].view(len(flat), len(part)), flat, part.mT)
                sums[k] = total.view_as(sums[k])
            else:
                product = flat @ part.mT if k else torch.addmm(bias, flat, part.mT)
                sums.append(product.view(*u.shape[:-1], len(part)))
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(**ctx.precision):
            return _Linears._derivatives(ctx, *gradients)

    @staticmethod
    def _derivatives(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, _, *inputs = ctx.saved_tensors
        needs_weight, needs_bias, *needs_input = ctx.needs_input_grad[3:]
        keep = torch.is_grad_enabled()
        parts, whole = _again(ctx.split, [weight], [needs_weight], keep)
        prepared, sources = _again(ctx.prepare, inputs, needs_input, keep)
        received = [gradients[k] for k in ctx.into]
        for_parts, products = [], []
        for g, u, part in zip(received, prepared, parts, strict=True):
            if needs_weight:
                for_parts.append((g.flatten(0, -2).mT @ u.flatten(0, -2)).to(part.dtype))
            if any(needs_input):
                products.append((g @ part).to(u.dtype))
        (for_weight,) = _pull_back(parts, whole, for_parts, [needs_weight], keep)
        for_bias = gradients[0].flatten(0, -2).sum(0) if needs_bias else None
        for_inputs = _pull_back(prepared, sources, products, needs_input, keep)
        return None, None, None, for_weight, for_bias, *for_inputs


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function, ctx.precision = function, _autocast(inputs[0])
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needs_input, keep = ctx.needs_input_grad[1:], torch.is_grad_enabled()
        with torch.autocast(**ctx.precision):
            result, sources = _again(lambda *x: (ctx.function(*x),), ctx.saved_tensors, needs_input, keep)
            return None, *_pull_back(result, sources, [gradient], needs_input, keep)


def _autocast(tensor: Tensor) -> dict[str, Any]:
    """Return torch's mixed precision in force, which a backward pass has to restore."""
    device = tensor.device.type
    enabled = torch.is_autocast_enabled(device)
    return {"device_type": device, "enabled": enabled, "dtype": torch.get_autocast_dtype(device)}


def _again(
    prepare: Prepare, inputs: Sequence[Tensor], needed: Sequence[bool], keep: bool
) -> tuple[Sequence[Tensor], list[Tensor]]:
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
    results: Sequence[Tensor],
    sources: Sequence[Tensor],
    gradients: Sequence[Tensor],
    needed: Sequence[bool],
    keep: bool,
) -> list[Tensor | None]:
    """Return the derivatives of sum(results * gradients) by the needed sources, None for the others."""
    wanted = [x for x, need in zip(sources, needed, strict=True) if need]
    if not wanted:
        return [None] * len(sources)
    found = iter(torch.autograd.grad(results, wanted, gradients, create_graph=keep, allow_unused=True))
    return [next(found) if need else None for need in needed]
