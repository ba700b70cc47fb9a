"""The operators as torch knows them: schemas, shapes without data, derivatives of first and second order.

`ocp_scn.ops.reference` defines what they compute and runs everywhere; `ocp_scn.ops.cpu` and
`ocp_scn.ops.triton` register faster code for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ocp_scn.ops import reference

NAMESPACE = "ocp_scn"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

_PLACES = "Tensor atom, Tensor row, Tensor? order, Tensor starts, int lmax, int mmax"
_SUMMED = f"Tensor wigner, {_PLACES}"
_ENDS = _SUMMED.replace("Tensor starts", "Tensor? starts")
_GATE = "Tensor[] first, Tensor mixing, Tensor bias, Tensor gate, Tensor gate_bias"
_TAPS = "Tensor values, Tensor bias, Tensor cos, Tensor sin, Tensor opposite"
SCHEMAS = {
    "node_to_edge": f"(Tensor x, {_ENDS}, ScalarType dtype) -> Tensor",
    "edge_to_node": f"(Tensor v, {_SUMMED}, SymInt num_coefficients) -> Tensor",
    "edge_to_node_": f"(Tensor(a!) sums, Tensor v, {_SUMMED}) -> ()",
    "wigner_gradient": f"(Tensor v, Tensor x, {_PLACES}, ScalarType dtype) -> Tensor",
    "gate": f"({_GATE}) -> Tensor",
    "gate_backward": f"(Tensor gradient, {_GATE}) -> Tensor[]",
    "bias_silu": "(Tensor x, Tensor? bias) -> Tensor",
    "bias_silu_": "(Tensor(a!) x, Tensor? bias) -> ()",
    "bias_silu_backward": "(Tensor gradient, Tensor x, Tensor? bias) -> Tensor",
    "tap_mean": f"({_TAPS}) -> Tensor",
    "tap_mean_backward": f"(Tensor gradient, {_TAPS}) -> Tensor",
}


def implement(device: str, functions: Any) -> None:
    """Have functions of the operators' names run on a device, which is a dispatch key of torch."""
    for name in SCHEMAS:
        LIBRARY.impl(name, getattr(functions, name), device)


def operator(name: str) -> Callable[..., Any]:
    """Return an operator by its name."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


# --------------------------------------------------------------------------- shapes without any data


class _Fakes:
    """What each operator returns, without its numbers."""

    @staticmethod
    def node_to_edge(x: Tensor, wigner: Tensor, atom: Tensor, row: Tensor, *rest: Any) -> Tensor:
        return x.new_empty(atom.shape[0] * row.shape[0] * row.shape[1], x.shape[2], dtype=rest[-1])

    @staticmethod
    def edge_to_node(
        v: Tensor, wigner: Tensor, atom: Tensor, row: Tensor, order: Tensor | None, starts: Tensor, *rest: int
    ) -> Tensor:
        return wigner.new_empty(starts.shape[0] - 1, rest[-1], v.shape[1])

    @staticmethod
    def edge_to_node_(sums: Tensor, v: Tensor, *rest: Any) -> None:
        return None

    @staticmethod
    def wigner_gradient(v: Tensor, x: Tensor, atom: Tensor, *rest: Any) -> Tensor:
        *_, lmax, mmax, dtype = rest
        return v.new_empty(atom.shape[0], reference.packed_size(lmax, mmax), dtype=dtype)

    @staticmethod
    def gate(
        first: Sequence[Tensor], mixing: Tensor, bias: Tensor, gate: Tensor, gate_bias: Tensor
    ) -> Tensor:
        return gate.new_empty(gate.shape[0], mixing.shape[0], gate.shape[1])

    @staticmethod
    def gate_backward(gradient: Tensor, first: Sequence[Tensor], *rest: Tensor) -> list[Tensor]:
        return [u.new_empty(u.shape) for u in (*first, rest[2])]

    @staticmethod
    def bias_silu(x: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(x.shape)

    @staticmethod
    def bias_silu_(x: Tensor, bias: Tensor | None) -> None:
        return None

    @staticmethod
    def bias_silu_backward(gradient: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(x.shape)

    @staticmethod
    def tap_mean(values: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, opposite: Tensor) -> Tensor:
        kept = cos.shape[1]
        return cos.new_empty(values.shape[0], kept, values.shape[2] // kept)

    @staticmethod
    def tap_mean_backward(gradient: Tensor, values: Tensor, *rest: Tensor) -> Tensor:
        return values.new_empty(values.shape)


# --------------------------------------------------------------------------------------- derivatives


def _keep(*tensors: int) -> Callable[..., None]:
    """Return what keeps the inputs for the backward pass, of which those at some places are tensors."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(inputs[k] for k in tensors))
        ctx.others = [x for k, x in enumerate(inputs) if k not in tensors]
        ctx.dtypes = [inputs[k].dtype for k in tensors if inputs[k] is not None]

    return setup_context


def _node_to_edge_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, wigner, atom, row, order, starts = ctx.saved_tensors
    lmax, mmax, _ = ctx.others
    if starts is None:
        raise ValueError("node_to_edge has no derivative without order and starts")
    ends, of_x, of_wigner = (atom, row, order, starts, lmax, mmax), None, None
    if ctx.needs_input_grad[0]:
        of_x = operator("edge_to_node")(gradient, wigner, *ends, x.shape[1]).to(x.dtype)
    if ctx.needs_input_grad[1]:
        of_wigner = operator("wigner_gradient")(gradient, x, *ends, wigner.dtype)
    return of_x, of_wigner, *[None] * 7


def _edge_to_node_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    v, wigner, atom, row, order, starts = ctx.saved_tensors
    lmax, mmax, _ = ctx.others
    ends, of_v, of_wigner = (atom, row, order, starts, lmax, mmax), None, None
    if ctx.needs_input_grad[0]:
        of_v = operator("node_to_edge")(gradient, wigner, *ends, v.dtype)
    if ctx.needs_input_grad[1]:
        of_wigner = operator("wigner_gradient")(v, gradient, *ends, wigner.dtype)
    return of_v, of_wigner, *[None] * 7


def _wigner_gradient_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    v, x, atom, row, order, starts = ctx.saved_tensors
    lmax, mmax, _ = ctx.others
    ends, of_v, of_x = (atom, row, order, starts, lmax, mmax), None, None
    if ctx.needs_input_grad[0]:
        of_v = operator("node_to_edge")(x, gradient, *ends, v.dtype)
    if ctx.needs_input_grad[1]:
        of_x = operator("edge_to_node")(v, gradient, *ends, x.shape[1]).to(x.dtype)
    return of_v, of_x, *[None] * 7


def _bias_silu_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, bias = ctx.saved_tensors
    of_x = operator("bias_silu_backward")(gradient, x, bias)
    return of_x, _of_bias(of_x, bias, ctx.needs_input_grad[1])


def _bias_silu_backward_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    gradient, x, bias = ctx.saved_tensors
    y = reference.biased(x, bias)
    of_gradient = (h.to(y.dtype) * reference.slope(y)).to(gradient.dtype)
    of_x = (h.to(y.dtype) * gradient.to(y.dtype) * reference.curvature(y)).to(x.dtype)
    return of_gradient, of_x, _of_bias(of_x, bias, ctx.needs_input_grad[2])


def _gate_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    before, (first, *others) = inputs[:-5], inputs[-5:]
    ctx.save_for_backward(*before, *first, *others)


def _gate_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    *first, mixing, bias, gate, gate_bias = ctx.saved_tensors
    *of_first, of_gate = operator("gate_backward")(gradient, first, mixing, bias, gate, gate_bias)
    # A bias adds to every tap, as the first row of `first` does.
    of_bias = of_first[0][:, 0].sum(0).to(bias.dtype)
    return of_first, None, of_bias, of_gate, of_gate.sum(0).to(gate_bias.dtype)


def _gate_backward_backward(ctx: Any, *of_results: Any) -> tuple[Any, ...]:
    gradient, *first, mixing, bias, gate, gate_bias = ctx.saved_tensors
    found = of_results[0] if len(of_results) == 1 else of_results
    *h_first, h_gate = (
        torch.zeros_like(x) if h is None else h for h, x in zip(found, (*first, gate), strict=True)
    )
    silu, slope, curvature = torch.nn.functional.silu, reference.slope, reference.curvature
    dtype = reference.wide(gate)
    o, h = gradient.to(dtype), h_gate.to(dtype)[:, None]
    z, q = reference.mix(first, mixing) + bias.to(dtype), reference.biased(gate, gate_bias)[:, None]
    k = reference.mix(h_first, mixing)  # (E, T, H), as z
    of_gradient = k * silu(q) * slope(z) + h * silu(z) * slope(q)
    of_z = o * (k * silu(q) * curvature(z) + h * slope(z) * slope(q))
    of_q = (o * (k * slope(q) * slope(z) + h * silu(z) * curvature(q))).sum(1)
    of_first = reference.unmix(of_z, first, mixing)
    return (
        of_gradient.to(gradient.dtype),
        of_first,
        None,
        of_z.sum((0, 1)).to(bias.dtype),
        of_q.to(gate.dtype),
        of_q.sum(0).to(gate_bias.dtype),
    )


def _tap_mean_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    values, bias, cos, sin, opposite = ctx.saved_tensors
    of_values = operator("tap_mean_backward")(gradient, values, bias, cos, sin, opposite)
    return of_values, _of_bias(of_values, bias, ctx.needs_input_grad[1]), None, None, None


def _tap_mean_backward_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    gradient, values, bias, cos, sin, opposite = ctx.saved_tensors
    y = reference.biased(values, bias)
    h = h.to(y.dtype)
    activated = (h * reference.slope(y)).unflatten(2, (cos.shape[1], -1))
    of_gradient = reference.roll_back(activated, cos, sin, opposite).to(gradient.dtype)
    spread = reference.roll_forth(gradient.to(y.dtype), cos, sin, opposite).flatten(2)
    of_values = (h * spread * reference.curvature(y)).to(values.dtype)
    return of_gradient, of_values, _of_bias(of_values, bias, ctx.needs_input_grad[2]), None, None, None


def _of_bias(of_x: Tensor, bias: Tensor | None, needed: bool) -> Tensor | None:
    """Return the derivative by a bias from that by what it is added to."""
    if bias is None or not needed:
        return None
    return of_x.flatten(0, -2).sum(0).to(bias.dtype)


_DERIVATIVES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "node_to_edge": (_node_to_edge_backward, _keep(0, 1, 2, 3, 4, 5)),
    "edge_to_node": (_edge_to_node_backward, _keep(0, 1, 2, 3, 4, 5)),
    "wigner_gradient": (_wigner_gradient_backward, _keep(0, 1, 2, 3, 4, 5)),
    "bias_silu": (_bias_silu_backward, _keep(0, 1)),
    "bias_silu_backward": (_bias_silu_backward_backward, _keep(0, 1, 2)),
    "gate": (_gate_backward, _gate_context),
    "gate_backward": (_gate_backward_backward, _gate_context),
    "tap_mean": (_tap_mean_backward, _keep(0, 1, 2, 3, 4)),
    "tap_mean_backward": (_tap_mean_backward_backward, _keep(0, 1, 2, 3, 4, 5)),
}


def _register() -> None:
    for name, schema in SCHEMAS.items():
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    implement("CompositeExplicitAutograd", reference)
    for name in SCHEMAS:
        torch.library.register_fake(f"{NAMESPACE}::{name}", getattr(_Fakes, name), lib=LIBRARY)
    for name, (backward, setup_context) in _DERIVATIVES.items():
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY
        )


_register()
