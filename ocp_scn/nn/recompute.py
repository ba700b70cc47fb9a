"""Steps of the network that keep their inputs for the backward pass instead of what they compute inside.

A layer's memory in training is then little more than the inputs of its matrix products' cheap
preparations; no matrix product of the network is done twice. Derivatives of any order are right,
because a backward pass here is made of differentiable operations on those inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from ocp_scn.nn.products import product, stacked_product, sum_of_products

Prepare = Callable[..., Sequence[Tensor]]


def linears(
    prepare: Prepare,
    weight: Tensor,
    bias: Tensor | None,
    *inputs: Tensor,
    blocks: Tensor | None = None,
    into: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Return sums of products u_k @ w_k.T for (u_0, u_1, ...) = prepare(*inputs), keeping no u_k.

    Args:
        prepare: cheap and differentiable; computed again in the backward pass. It must depend on
            no other tensor that requires a gradient.
        weight: the matrix whose ranges of columns w_k, each as wide as its u_k, multiply.
        bias: (out,) added to the first sum, or None.
        inputs: tensors that ``prepare`` takes.
        blocks: the order in which the matrix's columns, in as many blocks of equal width, are taken
            before; as they are if None.
        into: for each k the number of the sum that the product belongs to, from 0; given with ``blocks``.
            None: there is one sum.

    Returns:
        The sums, (..., out) each.
    """
    function = _Linears.apply if torch.is_grad_enabled() else _sums_of_products
    return function(prepare, blocks, into, weight, bias, *inputs)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias, like torch's function of this name, by :mod:`ocp_scn.nn.products`."""
    return linears(_unchanged, weight, bias, x.flatten(0, -2))[0].unflatten(0, x.shape[:-1])


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), keeping inputs but nothing from inside; like :func:`linears` otherwise."""
    return _Recomputed.apply(function, *inputs) if torch.is_grad_enabled() else function(*inputs)


def silu_of_own(x: Tensor) -> Tensor:
    """Return SiLU of a tensor that nobody else has: in place of it, unless a derivative will need it."""
    return silu(x, inplace=not torch.is_grad_enabled())


def _unchanged(x: Tensor) -> tuple[Tensor]:
    return (x,)


def _sums_of_products(
    prepare: Prepare,
    blocks: Tensor | None,
    into: Sequence[int] | None,
    weight: Tensor,
    bias: Tensor | None,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    prepared = prepare(*inputs)
    ranges = _columns(prepared)
    sums: list[Tensor] = []
    for members in _sums(into, prepared):
        factors = [(prepared[n].flatten(0, -2), _part(weight, blocks, ranges[n])) for n in members]
        total = sum_of_products(factors, None if sums else bias)
        shape = prepared[members[0]].shape[:-1]
        # torch forbids to change a view that leaves a custom function, and counts one as it is, too.
        sums.append(total if len(shape) == 1 else total.view(*shape, total.shape[1]))
    return tuple(sums)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, blocks: Tensor | None, into: Sequence[int] | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.prepare, ctx.blocks, ctx.into = prepare, blocks, into
        ctx.precision = _autocast(tensors[0])
        ctx.save_for_backward(*tensors)
        return _sums_of_products(prepare, blocks, into, *tensors)

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
        for_inputs: list[Tensor | None] = [None] * len(inputs)
        if any(needs_input):
            received = [gradients[k].flatten(0, -2) for k in ctx.into or [0] * len(prepared)]
            # As matrices: for more dimensions and a strided part, torch makes many small products.
            products = [
                product(g, _part(weight, ctx.blocks, columns).mT).to(u.dtype).view_as(u)
                for g, columns, u in zip(received, _columns(prepared), prepared, strict=True)
            ]
            for_inputs = _pull_back(prepared, sources, products, needs_input, keep)
        for_weight = None
        if needs_weight:
            for_weight = _weight_derivative(weight, ctx.blocks, ctx.into, prepared, gradients)
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


def _sums(into: Sequence[int] | None, prepared: Sequence[Tensor]) -> list[list[int]]:
    """Return which of the prepared tensors belong to each sum."""
    if into is None:
        return [[*range(len(prepared))]]
    return [[n for n, number in enumerate(into) if number == k] for k in range(max(into) + 1)]


def _columns(prepared: Sequence[Tensor]) -> list[slice]:
    """Return the ranges of a matrix's columns that multiply the given tensors."""
    borders = itertools.accumulate((u.shape[-1] for u in prepared), initial=0)
    return list(itertools.starmap(slice, itertools.pairwise(borders)))


def _part(weight: Tensor, blocks: Tensor | None, columns: slice) -> Tensor:
    """Return a range of a matrix's columns after its blocks are put in order."""
    if blocks is None:
        return weight[:, columns]
    taken = _blocks_of(weight, blocks, columns)
    return embedding(taken, _as_blocks(weight, blocks)).view(-1, len(weight)).mT  # faster than an index


def _weight_derivative(
    weight: Tensor,
    blocks: Tensor | None,
    into: Sequence[int] | None,
    prepared: Sequence[Tensor],
    gradients: Sequence[Tensor],
) -> Tensor:
    """Return the matrix's derivative, which lies in memory column by column."""
    ranges, flat = _columns(prepared), [u.flatten(0, -2).mT for u in prepared]
    if blocks is None:
        return stacked_product(flat, gradients[0].flatten(0, -2).mT).to(weight.dtype).mT
    whole = weight.new_empty(len(blocks), weight.numel() // len(blocks))
    for members, gradient in zip(_sums(into, prepared), gradients, strict=True):
        values = stacked_product([flat[n] for n in members], gradient.flatten(0, -2).mT)
        taken = torch.cat([_blocks_of(weight, blocks, ranges[n]) for n in members])
        whole.index_copy_(0, taken, values.to(weight.dtype).view(len(taken), -1))
    return whole.view(weight.mT.shape).mT


def _as_blocks(weight: Tensor, blocks: Tensor) -> Tensor:
    """Return a matrix's blocks of columns, each as a row."""
    return weight.mT.reshape(len(blocks), -1)


def _blocks_of(weight: Tensor, blocks: Tensor, columns: slice) -> Tensor:
    """Return which rows of :func:`_as_blocks` a range of reordered columns is."""
    size = weight.shape[1] // len(blocks)
    return blocks[columns.start // size : columns.stop // size]


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
