"""Steps of the network that keep their inputs for the backward pass instead of what they compute inside.

A layer's memory in training is then little more than the inputs of its matrix products' cheap
preparations; no matrix product of the network is done twice. Derivatives of any order are right,
because a backward pass here is made of differentiable operations on those inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ocp_scn.nn.products import product

Prepare = Callable[..., Sequence[Tensor]]


def linears(
    prepare: Prepare, weight: Tensor, *inputs: Tensor, blocks: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the products u_k @ w_k.T for (u_0, u_1, ...) = prepare(*inputs), keeping no u_k.

    Args:
        prepare: cheap and differentiable; computed again in the backward pass. It must depend on
            no other tensor that requires a gradient.
        weight: the matrix whose ranges of columns w_k, each as wide as its u_k, multiply.
        inputs: tensors that ``prepare`` takes.
        blocks: the order in which the matrix's columns, in as many blocks of equal width, are taken
            before; those that are not named count nothing. None: there is one u_0, as wide as the matrix.

    Returns:
        The products, (..., out) each.
    """
    function = _Linears.apply if torch.is_grad_enabled() else _products
    return function(prepare, blocks, weight, *inputs)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T, like torch's function of this name, by :mod:`ocp_scn.nn.products`."""
    (values,) = linears(_unchanged, weight, x if x.dim() == 2 else x.flatten(0, -2))
    return values if x.dim() == 2 else values.view(*x.shape[:-1], weight.shape[0])


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs), keeping inputs but nothing from inside; like :func:`linears` otherwise."""
    return _Recomputed.apply(function, *inputs) if torch.is_grad_enabled() else function(*inputs)


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return the parts one after the other, and a single one as it is, not a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _unchanged(x: Tensor) -> tuple[Tensor]:
    return (x,)


def _products(prepare: Prepare, blocks: Tensor | None, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    prepared = prepare(*inputs)
    products = []
    for u, part in zip(prepared, _parts(weight, blocks, prepared), strict=True):
        # torch forbids to change a view that leaves a custom function, and counts one as it is, too.
        if u.dim() == 2:
            products.append(product(u, part))
        else:
            products.append(product(u.flatten(0, -2), part).view(*u.shape[:-1], weight.shape[0]))
    return tuple(products)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepare: Prepare, blocks: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.prepare, ctx.blocks = prepare, blocks
        ctx.precision = _autocast(tensors[0])
        ctx.save_for_backward(*tensors)
        return _products(prepare, blocks, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(**ctx.precision):
            return _Linears._derivatives(ctx, *gradients)

    @staticmethod
    def _derivatives(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        needs_weight, *needs_input = ctx.needs_input_grad[2:]
        keep = torch.is_grad_enabled()
        prepared, sources = _again(ctx.prepare, inputs, needs_input, keep)
        for_inputs: list[Tensor | None] = [None] * len(inputs)
        if any(needs_input):
            parts = _parts(weight, ctx.blocks, prepared)
            # As matrices: for more dimensions and a strided part, torch makes many small products.
            products = [
                product(g.flatten(0, -2), part.mT).to(u.dtype).view_as(u)
                for g, part, u in zip(gradients, parts, prepared, strict=True)
            ]
            for_inputs = _pull_back(prepared, sources, products, needs_input, keep)
        for_weight = None
        if needs_weight:
            for_weight = _weight_derivative(weight, ctx.blocks, prepared, gradients)
        return None, None, for_weight, *for_inputs


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


def _parts(weight: Tensor, blocks: Tensor | None, prepared: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the ranges of a matrix's columns, with its blocks in order, that multiply the given tensors."""
    if blocks is None:
        yield weight
        return
    as_blocks = weight.mT.reshape(weight.shape[1] // _block_size(prepared, blocks), -1)
    for taken in _blocks_taken(blocks, prepared):
        yield embedding(taken, as_blocks).view(-1, len(weight)).mT  # faster than an index


def _block_size(prepared: Sequence[Tensor], blocks: Tensor) -> int:
    """Return how many columns a block has."""
    return sum(u.shape[-1] for u in prepared) // len(blocks)


def _blocks_taken(blocks: Tensor, prepared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the blocks whose columns multiply each of the given tensors."""
    size = _block_size(prepared, blocks)
    return blocks.split([u.shape[-1] // size for u in prepared])


def _weight_derivative(
    weight: Tensor, blocks: Tensor | None, prepared: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return the matrix's derivative, which lies in memory column by column."""
    factors = zip(prepared, gradients, strict=True)
    parts = [product(u.flatten(0, -2).mT, g.flatten(0, -2).mT).to(weight.dtype) for u, g in factors]
    if blocks is None:
        return parts[0].mT
    size = _block_size(prepared, blocks)
    new = weight.new_empty if len(blocks) * size == weight.shape[1] else weight.new_zeros
    whole = new(weight.shape[1] // size, size * len(weight))
    for part, taken in zip(parts, _blocks_taken(blocks, prepared), strict=True):
        whole.index_copy_(0, taken, part.view(len(taken), -1))
    return whole.view(weight.mT.shape).mT


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
