"""Steps of the network that keep their inputs for the backward pass, and little beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ocp_scn.nn.products import float32_products


class Step(Protocol):
    """A differentiable function of tensors with its derivative written out."""

    def forward(self, *inputs: Any, **keep: Any) -> Tensor:
        """Compute the step of differentiable operators.

        Args:
            inputs: the tensors.
            keep: ``keep``, a list for what `vjp` shall not compute again; nothing in it is overwritten.
        """

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], /, *inputs: Any
    ) -> Sequence[Tensor | None]:
        """Return the derivatives by the inputs that need one, from that by the result; nothing is recorded.

        Args:
            gradient: derivative by the result.
            kept: what `forward` kept.
            needed: whether each of the inputs needs one.
            inputs: the tensors.
        """


def recomputed(step: Step, *inputs: Tensor) -> Tensor:
    """Return step.forward(*inputs), keeping the inputs and what the step itself keeps.

    Derivatives of higher order are those of the forward pass done again. Within ``torch.compile``, which
    decides itself what to compute again, it is the forward pass. Steps know the dtype of their products, and
    autocast, which would change it in the backward pass, is off inside.
    """
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if recorded and not torch.compiler.is_compiling():
        return _Recomputed.apply(step, *inputs)
    with torch.autocast(inputs[0].device.type, enabled=False):
        return step.forward(*inputs)


def joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return the parts one after the other, and a single one as it is, not a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, *inputs: Tensor) -> Tensor:
        kept: list[Tensor] = []
        with torch.autocast(inputs[0].device.type, enabled=False):
            result = step.forward(*inputs, keep=kept)
        ctx.step, ctx.number = step, len(inputs)
        ctx.precision = torch.get_float32_matmul_precision()
        ctx.save_for_backward(*inputs, *kept)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept = ctx.saved_tensors[: ctx.number], ctx.saved_tensors[ctx.number :]
        needed = ctx.needs_input_grad[1:]
        # What held in the forward pass holds here, which runs after it and perhaps in another thread.
        with torch.autocast(inputs[0].device.type, enabled=False), float32_products(ctx.precision):
            if torch.is_grad_enabled():  # to be differentiated again
                return None, *_differentiable_vjp(ctx.step, gradient, needed, inputs)
            return None, *ctx.step.vjp(gradient, kept, needed, *inputs)


def _differentiable_vjp(
    step: Step, gradient: Tensor, needed: Sequence[bool], inputs: Sequence[Tensor]
) -> list[Tensor | None]:
    # One input may depend on another; aliases keep its derivative out of the other's.
    sources = [x.view_as(x) for x in inputs]
    wanted = [x for x, need in zip(sources, needed, strict=True) if need]
    result = step.forward(*sources)
    found = iter(torch.autograd.grad(result, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needed]
