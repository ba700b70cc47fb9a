"""The derivative of messages, written out: what is computed again, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ocp_scn import ops
from ocp_scn.nn.edges import Chunk, Ends
from ocp_scn.nn.products import plus_product, product
from ocp_scn.nn.recompute import joined
from ocp_scn.nn.taps import Taps

# The last map's values are by far the largest tensor. One tap's are kept for the backward pass unless the
# width H, and with it what it costs to compute them again, is small; those of several taps never are.
MAX_REPEATED = 512

At = tuple[Tensor, Tensor, Tensor | None, Tensor | None, int, int]


class MessageSetting(NamedTuple):
    """What messages of some edges depend on, beside signals, features, Wigner matrices and weights.

    Attributes:
        lmax: largest degree.
        mmax: largest \\|order\\|.
        taps: the rolls.
        receiver_row: (1, S, 3) where the coefficients of messages lie.
        chunks: the edges.
        dtype: of matrix products.
    """

    lmax: int
    mmax: int
    taps: Taps
    receiver_row: Tensor
    chunks: list[Chunk]
    dtype: torch.dtype

    def keeps_values(self, a: MessageMaps) -> bool:
        """Whether the last map's values are kept for the backward pass."""
        return len(self.taps.cos) == 1 and a.w3.shape[1] > MAX_REPEATED

    def input_wigner(self, wigner: Tensor) -> Tensor:
        """Return the Wigner matrices of the degrees that signals have."""
        return wigner[:, :1] if self.taps.input_degree < self.lmax else wigner

    def both_ends(self, ends: Ends) -> At:
        """Return how operators turn signals at both ends, for degrees that signals have."""
        taps = self.taps
        return ends.atom, taps.row, ends.order, ends.starts, taps.input_degree, taps.input_order

    def receivers(self, ends: Ends) -> At:
        """Return how operators turn messages back at receivers."""
        return ends.atom, self.receiver_row, ends.order, ends.starts, self.lmax, self.mmax


class MessageMaps(NamedTuple):
    """The four maps' weights, in the dtype of products, and biases."""

    w0: Tensor
    b0: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor

    @classmethod
    def of(cls, weights: Sequence[Tensor], dtype: torch.dtype) -> MessageMaps:
        """Return the maps from their tensors in this order."""
        return cls(*(tensor.to(dtype) if tensor.dim() == 2 else tensor for tensor in weights))


def message_vjp(
    s: MessageSetting,
    gradient: Tensor,
    kept: Sequence[Tensor],
    needed: Sequence[bool],
    x: Tensor,
    features: Tensor,
    wigner: Tensor,
    back: Tensor,
    *weights: Tensor,
) -> list[Tensor | None]:
    """Return the derivatives by the inputs of messages from that by their sums.

    Args:
        s: the messages.
        gradient: (A, (lmax + 1)**2, C') derivative by the sums.
        kept: of each chunk what is mixed for the taps, the second map's results, and the last map's where
            they are kept.
        needed: whether signals, features, Wigner matrices need one; weights always do.
        x: (A, K, C') signals.
        features: (E, F) edge features.
        wigner: (E, B) Wigner matrices.
        back: (E, B) those of messages.
        weights: of the four maps.
    """
    a = MessageMaps.of(weights, s.dtype)
    first_maps, into = s.taps.maps(a.w1), s.input_wigner(wigner)
    found = _Derivatives(needed, len(first_maps))
    left = iter(kept)
    for chunk in s.chunks:
        first, second = [next(left) for _ in first_maps], next(left)
        matrices, of_second = back[chunk.edges], []
        for edges, receivers in chunk.receivers:
            values = next(left) if s.keeps_values(a) else None
            of_second.append(
                _last_map_vjp(s, a, gradient, second[edges], values, matrices[edges], receivers, found)
            )
        e = features[chunk.edges].to(s.dtype)
        of_first = _gate_vjp(s, a, joined(of_second).flatten(0, 1), first, e, found)
        _first_map_vjp(s, of_first, x, into[chunk.edges], chunk.ends, first_maps, found)
    return found.by_inputs(s, features, wigner, weights)


def _last_map_vjp(
    s: MessageSetting,
    a: MessageMaps,
    gradient: Tensor,
    second: Tensor,
    values: Tensor | None,
    back: Tensor,
    receivers: Ends,
    found: _Derivatives,
) -> Tensor:
    """Return the derivative by ``second`` (E'', T, H), the second map's results of some edges."""
    at, tables = s.receivers(receivers), (s.taps.cos, s.taps.sin, s.taps.opposite)
    h = ops.bias_silu(second, a.b2)
    rows = h.flatten(0, 1)
    values = (product(rows, a.w3) if values is None else values).view(*h.shape[:2], len(a.w3))
    of_v = ops.node_to_edge(gradient, back, *at, gradient.dtype)
    if found.needs_back:
        v = ops.tap_mean(values, a.b3, *tables).flatten(0, 1)
        found.back.append(ops.wigner_gradient(v, gradient, *at, back.dtype))
    of_v = of_v.unflatten(0, (len(h), s.receiver_row.shape[1]))  # (E'', S, C')
    of_values = ops.tap_mean_backward(of_v, values, a.b3, *tables).flatten(0, 1)
    found.add(3, of_values, rows)
    return ops.bias_silu_backward(product(of_values, a.w3.mT).view_as(h), second, a.b2)


def _gate_vjp(
    s: MessageSetting,
    a: MessageMaps,
    of_second: Tensor,
    first: Sequence[Tensor],
    e: Tensor,
    found: _Derivatives,
) -> list[Tensor]:
    """Return the derivatives by what is mixed for taps, from that (E' T, H) by the second map's results."""
    opening = product(e, a.w0)
    h = ops.gate(first, s.taps.mixing, a.b1, opening, a.b0)
    found.add(2, of_second, h.flatten(0, 1))
    of_h = product(of_second, a.w2.mT).view_as(h)
    *of_first, of_opening = ops.gate_backward(of_h, first, s.taps.mixing, a.b1, opening, a.b0)
    found.add(0, of_opening, e)
    found.add_bias(1, of_first[0].flatten(0, 1))  # this product counts once in every tap
    if found.needs_features:
        found.features.append(product(of_opening, a.w0.mT))
    return of_first


def _first_map_vjp(
    s: MessageSetting,
    of_first: Sequence[Tensor],
    x: Tensor,
    wigner: Tensor,
    ends: Ends,
    first_maps: Sequence[Tensor],
    found: _Derivatives,
) -> None:
    at = s.both_ends(ends)
    u = ops.node_to_edge(x, wigner, *at, s.dtype)
    of_u = s.taps.first_map_vjp(u, first_maps, of_first, found.first_maps)
    if found.x is not None:
        ops.edge_to_node_(found.x, of_u, wigner, *at)
    elif found.needs_x:
        found.x = ops.edge_to_node(of_u, wigner, *at, x.shape[1]).to(x.dtype)
    if found.needs_wigner:
        found.wigner.append(ops.wigner_gradient(of_u, x, *at, wigner.dtype))


class _Derivatives:
    """Derivatives by a message's inputs: sums over chunks, or what each chunk has.

    Args:
        needed: whether signals, features and both kinds of Wigner matrices need one.
        num_first_maps: matrices of the first map.
    """

    def __init__(self, needed: Sequence[bool], num_first_maps: int) -> None:
        self.x: Tensor | None = None
        self.needs_x, self.needs_features, self.needs_wigner, self.needs_back, *_ = needed
        self.features: list[Tensor] = []
        self.wigner: list[Tensor] = []
        self.back: list[Tensor] = []
        self.first_maps: list[Tensor | None] = [None] * num_first_maps
        self.weights: dict[int, Tensor] = {}
        self.biases: dict[int, Tensor] = {}

    def add(self, k: int, gradient: Tensor, x: Tensor) -> None:
        """Add those by the weight and bias of map k, of x (R, in), from that by its result (R, out)."""
        # (in, out), as the weights lie in memory
        self.weights[k] = plus_product(self.weights.get(k), x.mT, gradient.mT)
        self.add_bias(k, gradient)

    def add_bias(self, k: int, gradient: Tensor) -> None:
        """Add that by the bias of map k."""
        of_bias = gradient.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32))
        self.biases[k] = of_bias if k not in self.biases else self.biases[k].add_(of_bias)

    def by_inputs(
        self, s: MessageSetting, features: Tensor, wigner: Tensor, weights: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Return them in the order of the inputs, in their dtypes."""
        of_weights: list[Tensor | None] = []
        for k, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            if k == 1:
                of_weights.append(s.taps.weight_gradient(weight, self.first_maps))
            else:
                of_weights.append(self.weights[k].mT.to(weight.dtype))
            of_weights.append(self.biases[k].to(bias.dtype))
        of_wigner = joined(self.wigner) if self.needs_wigner else None
        if of_wigner is not None and of_wigner.shape[1] < wigner.shape[1]:
            of_wigner = pad(of_wigner, (0, wigner.shape[1] - of_wigner.shape[1]))
        return [
            self.x,
            joined(self.features).to(features.dtype) if self.needs_features else None,
            of_wigner,
            joined(self.back) if self.needs_back else None,
            *of_weights,
        ]
