"""The derivative of messages, written out: what is computed again, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ocp_scn import ops
from ocp_scn.nn.edges import Chunk, Ends
from ocp_scn.nn.products import plus_product, product
from ocp_scn.nn.recompute import joined
from ocp_scn.nn.taps import Taps
from ocp_scn.ops.reference import wide

# The last map's values are by far the largest tensor. One tap's are kept for the backward pass unless the
# width H, and with it what it costs to compute them again, is small; those of several taps never are.
MAX_REPEATED = 512
# Tensors of each resolution.
_NUMBER = 11

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

    def first_maps(self, a: MessageMaps) -> Callable[[], Iterable[Tensor]]:
        """Return what gives the first map's matrices for each chunk: made for one, kept for several."""
        if len(self.chunks) == 1:
            return lambda: self.taps.maps(a.w1)
        kept = list(self.taps.maps(a.w1))
        return lambda: kept

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


def by_resolution(
    settings: Sequence[MessageSetting], tensors: Sequence[Tensor]
) -> Iterator[tuple[int, MessageSetting, Sequence[Tensor]]]:
    """Yield each resolution's number, setting and tensors, the last resolution first.

    The tensors are features, Wigner matrices, those of messages, and eight weights and biases. Near edges
    have the largest weights, whose derivatives thus need memory after all else.
    """
    for r in reversed(range(len(settings))):
        yield r, settings[r], tensors[r * _NUMBER : (r + 1) * _NUMBER]


def message_vjp(
    settings: Sequence[MessageSetting],
    gradient: Tensor,
    kept: Sequence[Tensor],
    needed: Sequence[bool],
    x: Tensor,
    *tensors: Tensor,
) -> list[Tensor | None]:
    """Return the derivatives by the inputs of messages from that by their sums.

    Args:
        settings: of each resolution's messages.
        gradient: (A, K, C') derivative by the sums.
        kept: of each chunk what is mixed for the taps, the second map's results, and the last map's where
            they are kept.
        needed: whether signals, features and Wigner matrices need one; weights always do.
        x: (A, K', C') signals.
        tensors: of each resolution, as `by_resolution` takes them.
    """
    left, sums = iter(kept), None
    found: list[Tensor | None] = [None] * len(tensors)
    if needed[0]:
        sums = gradient.new_zeros(x.shape)  # atom by atom, however x lies in memory
    for r, s, (features, wigner, back, *weights) in by_resolution(settings, tensors):
        first = r * _NUMBER
        derivatives = _Derivatives(sums, needed[1 + first :], s, left)
        a = MessageMaps.of(weights, s.dtype)
        derivatives.of_chunks(a, gradient, x, features, wigner, back)
        found[first : first + _NUMBER] = derivatives.by_inputs(features, wigner, weights)
    return [None if sums is None else sums.to(x.dtype), *found]


class _Derivatives:
    """Derivatives by the inputs of one resolution's messages: sums over chunks, or what each chunk has.

    Args:
        x: where to add those by the signals; None if nobody needs them.
        needed: whether features and both kinds of Wigner matrices need one.
        s: the messages.
        kept: what the forward pass kept of them.
    """

    def __init__(
        self, x: Tensor | None, needed: Sequence[bool], s: MessageSetting, kept: Iterator[Tensor]
    ) -> None:
        self.x, self.s, self.kept = x, s, kept
        self.needs_features, self.needs_wigner, self.needs_back, *_ = needed
        self.features: list[Tensor] = []
        self.wigner: list[Tensor] = []
        self.back: list[Tensor] = []
        self.first_maps: list[Tensor | None] = [None] * len(s.taps.sizes)
        self.weights: dict[int, Tensor] = {}
        self.biases: dict[int, Tensor] = {}

    def of_chunks(
        self, a: MessageMaps, gradient: Tensor, x: Tensor, features: Tensor, wigner: Tensor, back: Tensor
    ) -> None:
        """Go through the chunks, each from its end to its beginning."""
        s = self.s
        first_maps, into = s.first_maps(a), s.input_wigner(wigner)
        for chunk in s.chunks:
            first, second = [next(self.kept) for _ in range(s.taps.num_mixed)], next(self.kept)
            of_second = joined(
                [
                    self._last_map(a, gradient, second[edges], back[chunk.edges][edges], receivers)
                    for edges, receivers in chunk.receivers
                ]
            )
            e = features[chunk.edges].to(s.dtype)
            of_first = self._gate(a, of_second.flatten(0, 1), first, e)
            self._first_map(of_first, x, into[chunk.edges], chunk.ends, first_maps())

    def _last_map(
        self, a: MessageMaps, gradient: Tensor, second: Tensor, back: Tensor, receivers: Ends
    ) -> Tensor:
        """Return the derivative by ``second`` (E'', T, H), the second map's results of some edges."""
        s = self.s
        at = s.receivers(receivers)
        h = ops.bias_silu(second, a.b2)
        rows = h.flatten(0, 1)
        values = next(self.kept) if s.keeps_values(a) else product(rows, a.w3)
        values = values.view(*h.shape[:2], len(a.w3))
        if self.needs_back:
            v = s.taps.average(values, a.b3, own=False)
            self.back.append(ops.wigner_gradient(v, gradient, *at, back.dtype))
        of_v = ops.node_to_edge(gradient, back, *at, gradient.dtype)  # (E'' S, C')
        of_values = s.taps.average_vjp(of_v, values, a.b3).flatten(0, 1)
        del of_v, values
        self._add(3, of_values, rows)
        return ops.bias_silu_backward(product(of_values, a.w3.mT).view_as(h), second, a.b2)

    def _gate(self, a: MessageMaps, of_second: Tensor, first: Sequence[Tensor], e: Tensor) -> list[Tensor]:
        """Return the derivatives by what is mixed, from that (E' T, H) by the second map's results."""
        mixing, opening = self.s.taps.mixing, product(e, a.w0)
        h = ops.gate(first, mixing, a.b1, opening, a.b0)
        self._add(2, of_second, h.flatten(0, 1))
        of_h = product(of_second, a.w2.mT).view_as(h)
        *of_first, of_opening = ops.gate_backward(of_h, first, mixing, a.b1, opening, a.b0)
        self._add(0, of_opening, e)
        self._add_bias(1, of_first[0].flatten(0, 1))  # this product counts once in every tap
        if self.needs_features:
            self.features.append(product(of_opening, a.w0.mT))
        return of_first

    def _first_map(
        self,
        of_first: Sequence[Tensor],
        x: Tensor,
        wigner: Tensor,
        ends: Ends,
        first_maps: Iterable[Tensor],
    ) -> None:
        s = self.s
        at = s.both_ends(ends)
        u = ops.node_to_edge(x, wigner, *at, s.dtype)
        of_u = s.taps.first_map_vjp(u, first_maps, of_first, self.first_maps)
        if self.x is not None:
            ops.edge_to_node_(self.x, of_u, wigner, *at)
        if self.needs_wigner:
            self.wigner.append(ops.wigner_gradient(of_u, x, *at, wigner.dtype))

    def _add(self, k: int, gradient: Tensor, x: Tensor) -> None:
        """Add those by the weight and bias of map k, of x (R, in), from that by its result (R, out)."""
        # (in, out), as the weights lie in memory
        self.weights[k] = plus_product(self.weights.get(k), x.mT, gradient.mT)
        self._add_bias(k, gradient)

    def _add_bias(self, k: int, gradient: Tensor) -> None:
        """Add that by the bias of map k."""
        of_bias = gradient.sum(0, dtype=wide(gradient))
        self.biases[k] = of_bias if k not in self.biases else self.biases[k].add_(of_bias)

    def by_inputs(self, features: Tensor, wigner: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Return them in the order of the inputs, in their dtypes."""
        of_weights: list[Tensor | None] = []
        for k, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            if k == 1:
                of_weights.append(self.s.taps.weight_gradient(weight, self.first_maps))
            else:
                of_weights.append(self.weights[k].mT.to(weight.dtype))
            of_weights.append(self.biases[k].to(bias.dtype))
        of_wigner = joined(self.wigner) if self.needs_wigner else None
        if of_wigner is not None and of_wigner.shape[1] < wigner.shape[1]:
            of_wigner = pad(of_wigner, (0, wigner.shape[1] - of_wigner.shape[1]))
        return [
            joined(self.features).to(features.dtype) if self.needs_features else None,
            of_wigner,
            joined(self.back) if self.needs_back else None,
            *of_weights,
        ]
