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

from ocp_scn.nn.products import add_product, product

Prepare = Callable[..., Sequence[Tensor]]


def linears(
    prepare: Prepare,
    weight: Tensor,
    bias: Tensor | None,
    *inputs: Tensor,
    blocks: Tensor | None = None,
    into: Sequence[int] = (0,),
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
        into: for each k the number of the sum that the product belongs to, from 0.

    Returns:
        The sums, (..., out) each.
    """
    function = _Linears.apply if torch.is_grad_enabled() else _sums_of_products
    return function(prepare, blocks, tuple(into), weight, bias, *inputs)


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
    into: tuple[int, ...],
    weight: Tensor,
    bias: Tensor | None,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    prepared = prepare(*inputs)
    sums: list[Tensor] = []
    for u, columns, k in zip(prepared, _columns(prepared), into, strict=True):
        flat, part = u.flatten(0, -2), _part(weight, blocks, columns)
        if k < len(sums):
            total = sums[k].flatten(0, -2)
            add_product(total, flat.to(total.dtype), part.to(total.dtype))
        else:
            total = product(flat, part, None if k else bias)
            # torch forbids to change a view that leaves a custom function, and counts one as it is, too.
            sums.append(total if u.dim() == 2 else total.view(*u.shape[:-1], total.shape[1]))
    return tuple(sums)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, blocks: Tensor | None, into: tuple[int, ...], *tensors: Tensor
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
        ranges = _columns(prepared)
        received = [gradients[k] for k in ctx.into]
        for_inputs: list[Tensor | None] = [None] * len(inputs)
        if any(needs_input):
            # As matrices: for more dimensions and a strided part, torch makes many small products.
            products = [
                product(g.flatten(0, -2), _part(weight, ctx.blocks, columns).mT).to(u.dtype).view_as(u)
                for g, columns, u in zip(received, ranges, prepared, strict=True)
            ]
            for_inputs = _pull_back(prepared, sources, products, needs_input, keep)
        for_weight = None
        if needs_weight:
            pairs = [
                (g.flatten(0, -2).mT, u.flatten(0, -2).mT) for g, u in zip(received, prepared, strict=True)
            ]
            if keep or ctx.precision["enabled"]:
                for_weight = torch.cat([product(*pair) for pair in pairs], dim=1).to(weight.dtype)
                if ctx.blocks is not None:
                    for_weight = _part(for_weight, ctx.blocks.argsort(), slice(0, weight.shape[1]))
            else:
                for_weight = torch.empty_like(weight)
                for pair, columns in zip(pairs, ranges, strict=True):
                    _write_product(*pair, for_weight, ctx.blocks, columns)
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


def _columns(prepared: Sequence[Tensor]) -> list[slice]:
    """Return the ranges of a matrix's columns that multiply the given tensors."""
    borders = itertools.accumulate((u.shape[-1] for u in prepared), initial=0)
    return list(itertools.starmap(slice, itertools.pairwise(borders)))


def _part(weight: Tensor, blocks: Tensor | None, columns: slice) -> Tensor:
    """Return a range of a matrix's columns after its blocks are put in order."""
    if blocks is None:
        return weight[:, columns]
    index = _block_rows(weight, blocks, columns)
    return embedding(index, _as_blocks(weight, blocks)).view(len(weight), -1)  # faster than an index


def _write_product(a: Tensor, b: Tensor, weight: Tensor, blocks: Tensor | None, columns: slice) -> None:
    """Write a @ b.mT where :func:`_part` reads."""
    if blocks is None:
        product(a, b, out=weight[:, columns])
    else:
        rows = _as_blocks(weight, blocks)
        rows.index_copy_(0, _block_rows(weight, blocks, columns), product(a, b).view(-1, rows.shape[1]))


def _as_blocks(weight: Tensor, blocks: Tensor) -> Tensor:
    """Return a matrix with each row cut into blocks that are rows then."""
    return weight.reshape(len(weight) * len(blocks), -1)


def _block_rows(weight: Tensor, blocks: Tensor, columns: slice) -> Tensor:
    """Return which rows of :func:`_as_blocks` a range of reordered columns is, row after row."""
    size = weight.shape[1] // len(blocks)
    first = torch.arange(len(weight), device=weight.device)[:, None] * len(blocks)
    return (first + blocks[columns.start // size : columns.stop // size]).flatten()


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
