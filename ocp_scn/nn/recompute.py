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
    split: Callable[[Tensor], Sequence[Tensor]] | None = None,
    into: Sequence[int] = (0,),
) -> tuple[Tensor, ...]:
    """Return sums of products u_k @ w_k.T for (u_0, u_1, ...) = prepare(*inputs), keeping no u_k and no w_k.

    Args:
        prepare: cheap and differentiable; computed again in the backward pass. It must depend on
            no other tensor that requires a gradient.
        weight: the matrix whose parts w_k, (out, in_k) each, multiply.
        bias: (out,) added to the first sum.
        inputs: tensors that ``prepare`` takes.
        split: returns the parts of ``weight``, and is computed again in the backward pass, too; if
            None, the parts are ranges of columns as wide as the u_k.
        into: for each k the number of the sum that the product belongs to, from 0.

    Returns:
        The sums, (..., out) each.
    """
    function = _Linears.apply if torch.is_grad_enabled() else _sums_of_products
    return function(prepare, split, tuple(into), weight, bias, *inputs)


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), keeping inputs but nothing from inside; like :func:`linears` otherwise."""
    return _Recomputed.apply(function, *inputs) if torch.is_grad_enabled() else function(*inputs)


def _sums_of_products(
    prepare: Prepare,
    split: Prepare | None,
    into: tuple[int, ...],
    weight: Tensor,
    bias: Tensor,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    prepared = prepare(*inputs)
    parts = split(weight) if split else _columns(weight, prepared)
    sums: list[Tensor] = []
    for u, part, k in zip(prepared, parts, into, strict=True):
        flat = u.flatten(0, -2)
        if k < len(sums):
            total = sums[k].flatten(0, -2)
            total.addmm_(flat.to(total.dtype), part.mT.to(total.dtype))
        else:
            product = flat @ part.mT if k else torch.addmm(bias, flat, part.mT)
            sums.append(product.view(*u.shape[:-1], product.shape[1]))
    return tuple(sums)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, split: Prepare | None, into: tuple[int, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.prepare, ctx.split, ctx.into = prepare, split, into
        ctx.precision = _autocast(tensors[0])
        ctx.save_for_backward(*tensors)
        return _sums_of_products(prepare, split, into, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(**ctx.precision):
            return _Linears._derivatives(ctx, *gradients)

    @staticmethod
    def _derivatives(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, _, *inputs = ctx.saved_tensors
        needs_weight, needs_bias, *needs_input = ctx.needs_input_grad[3:]
        keep = torch.is_grad_enabled()
        prepared, sources = _again(ctx.prepare, inputs, needs_input, keep)
        if ctx.split:
            parts, whole = _again(ctx.split, [weight], [needs_weight], keep)
        else:
            parts = _columns(weight, prepared)
        received = [gradients[k] for k in ctx.into]
        for_inputs: list[Tensor | None] = [None] * len(inputs)
        if any(needs_input):
            products = [(g @ part).to(u.dtype) for g, part, u in zip(received, parts, prepared, strict=True)]
            for_inputs = _pull_back(prepared, sources, products, needs_input, keep)
        for_weight = None
        if needs_weight:
            pairs = [(g.flatten(0, -2).mT, u.flatten(0, -2)) for g, u in zip(received, prepared, strict=True)]
            if ctx.split:
                products = [(a @ b).to(weight.dtype) for a, b in pairs]
                (for_weight,) = _pull_back(parts, whole, products, [True], keep)
            elif keep or ctx.precision["enabled"]:
                for_weight = torch.cat([a @ b for a, b in pairs], dim=1).to(weight.dtype)
            else:
                for_weight = torch.empty_like(weight)
                for (a, b), columns in zip(pairs, _columns(for_weight, prepared), strict=True):
                    torch.mm(a, b, out=columns)
        for_bias = gradients[0].flatten(0, -2).sum(0) if needs_bias else None
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


def _columns(weight: Tensor, prepared: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the ranges of a matrix's columns that multiply the given tensors."""
    return weight.split([u.shape[-1] for u in prepared], dim=1)


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
