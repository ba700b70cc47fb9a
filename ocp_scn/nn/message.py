"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.edges import Chunk, Edges, Ends
from ocp_scn.nn.recompute import joined, recomputed
from ocp_scn.nn.taps import Taps
from ocp_scn.ops.chunks import ChunkSizes
from ocp_scn.ops.products import input_major, plus_product, product, product_dtype
from ocp_scn.sphere import num_coefficients

# The last map's values are by far the largest tensor. One tap's are kept for the backward pass unless the
# width H, and with it what it costs to compute them again, is small; those of several taps never are.
MAX_REPEATED = 512


class MessageBlock(nn.Module):
    """Message of the edges of one resolution (the paper's F_e between two rotations).

    Both ends' signals are turned into the edge frame, cut to |m| <= mmax and fed to
    h = SiLU(A1 u) * SiLU(A0 e), h = SiLU(A2 h), v = SiLU(A3 h) for each of T rolls about the edge;
    the results are rolled back, averaged and turned back into the global frame.

    Args:
        lmax: largest degree of the resolution.
        mmax: largest |order| kept.
        num_taps: T, rolls 2 pi t / T.
        channels: C', channels of the signals.
        hidden: H, width of the network.
        num_features: F, width of the edge features.
        eval_num_taps: T in evaluation; ``num_taps`` if None.
    """

    receiver_row: Tensor  # (1, S, 3), where the coefficients of messages lie

    def __init__(
        self,
        *,
        lmax: int,
        mmax: int,
        num_taps: int,
        channels: int,
        hidden: int,
        num_features: int,
        eval_num_taps: int | None = None,
    ) -> None:
        super().__init__()
        self.lmax, self.mmax = lmax, mmax
        self.num_kept = num_coefficients(lmax, mmax)  # S
        size = self.num_kept * channels
        self.fc_features = input_major(nn.Linear(num_features, hidden))  # A0
        self.fc1 = input_major(nn.Linear(2 * size, hidden))  # A1
        self.fc2 = input_major(nn.Linear(hidden, hidden))  # A2
        self.fc3 = input_major(nn.Linear(hidden, size))  # A3
        in_evaluation = num_taps if eval_num_taps is None else eval_num_taps
        self.taps, self.taps_of_scalars = _taps(lmax, mmax, num_taps)
        same = in_evaluation == num_taps
        of_evaluation = (self.taps, self.taps_of_scalars) if same else _taps(lmax, mmax, in_evaluation)
        self.eval_taps, self.eval_taps_of_scalars = of_evaluation
        which = torch.arange(self.num_kept)
        row = torch.stack([torch.zeros_like(which), torch.full_like(which, self.num_kept), which], dim=1)
        self.register_buffer("receiver_row", row[None], persistent=False)

    def max_edges(self, sizes: ChunkSizes) -> tuple[int, int]:
        """Return how many edges to compute at once, and in the last map; memory is bounded by them."""
        taps = self.taps if self.training else self.eval_taps
        size = self.fc3.out_features
        return sizes.message // size, sizes.last_map // (taps.cos.shape[0] * size)

    def forward(self, x: Tensor, features: Tensor, edges: Edges, *, scalars: bool = False) -> Tensor:
        """Compute the messages of edges and their sums at the receivers.

        Args:
            x: (A, K, C') signals of the atoms; degrees above ``lmax`` are not used.
            features: (E, F) edge features.
            edges: the edges.
            scalars: whether x has the coefficient (0, 0) only, K = 1.

        Returns:
            (A, (lmax + 1)**2, C') sums of the messages, in the dtype of the Wigner matrices.
        """
        if self.training:
            taps = self.taps_of_scalars if scalars else self.taps
        else:
            taps = self.eval_taps_of_scalars if scalars else self.eval_taps
        step = _Messages(self.lmax, self.mmax, taps, self.receiver_row, edges.chunks, product_dtype(x))
        maps = (self.fc_features, self.fc1, self.fc2, self.fc3)
        weights = [tensor for fc in maps for tensor in (fc.weight, fc.bias)]
        return recomputed(step, x, features, edges.wigner, edges.back, *weights)


class _Weights(NamedTuple):
    w0: Tensor
    b0: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor


class _Messages(NamedTuple):
    """What :class:`MessageBlock` computes, chunk by chunk."""

    lmax: int
    mmax: int
    taps: Taps
    receiver_row: Tensor
    chunks: list[Chunk]
    dtype: torch.dtype  # of matrix products

    def forward(
        self,
        x: Tensor,
        features: Tensor,
        wigner: Tensor,
        back: Tensor,
        *weights: Tensor,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        taps, w = self.taps, _Weights(*self._in_dtype(weights))
        maps = taps.maps(w.w1)
        of_edges, sums = self._input_wigner(wigner), None
        for chunk in self.chunks:
            u = ops.node_to_edge(x, of_edges[chunk.edges], *self._ends(chunk.ends), self.dtype)
            first = taps.first_map(u, maps)  # of both ends: (E', 1 or 2, H) for each part of the taps
            opening = product(features[chunk.edges].to(self.dtype), w.w0)
            h = ops.gate(first, taps.mixing, w.b1, opening, w.b0)  # (E', T, H)
            second = product(h.flatten(0, 1), w.w2).view_as(h)
            if keep is not None:
                keep += [*first, second]
            for last, receivers in chunk.receivers:
                h = silu_of_own(second[last], w.b2) if keep is None else ops.bias_silu(second[last], w.b2)
                values = product(h.flatten(0, 1), w.w3).unflatten(0, h.shape[:2])  # (E'', T, S C')
                if keep is not None and self._keeps_values(w):
                    keep.append(values)
                v = ops.tap_mean(values, w.b3, taps.cos, taps.sin, taps.opposite)  # (E'', S, C')
                at = self._receivers(receivers)
                sums = self._plus_sums(sums, v.flatten(0, 1), _within(back, chunk, last), at)
        return sums

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], *inputs: Tensor
    ) -> Sequence[Tensor | None]:
        x, features, wigner, back, *weights = inputs
        w = _Weights(*self._in_dtype(weights))
        maps, of_edges = self.taps.maps(w.w1), self._input_wigner(wigner)
        found = _Found(len(maps), torch.zeros_like(x) if needed[0] else None)
        left = iter(kept)
        for chunk in self.chunks:
            first, second = [next(left) for _ in maps], next(left)
            of_second = joined(
                [
                    self._last_map_vjp(gradient, second[last], left, _within(back, chunk, last), at, w, needed[3], found)
                    for last, at in chunk.receivers
                ]
            ).flatten(0, 1)
            e = features[chunk.edges].to(self.dtype)
            opening = product(e, w.w0)
            h = ops.gate(first, self.taps.mixing, w.b1, opening, w.b0)
            found.add(2, of_second, h.flatten(0, 1))
            found.add_bias(2, of_second)
            of_h = product(of_second, w.w2.mT).view_as(h)
            *of_first, of_opening = ops.gate_backward(of_h, first, self.taps.mixing, w.b1, opening, w.b0)
            found.add(0, of_opening, e)
            found.add_bias(0, of_opening)
            found.add_bias(1, of_first[0].flatten(0, 1))  # this product counts once in every tap
            if needed[1]:
                found.features.append(product(of_opening, w.w0.mT))
            self._first_map_vjp(of_first, x, of_edges[chunk.edges], chunk.ends, maps, needed[2], found)
        of_weights = found.of(weights)
        of_weights[2] = self.taps.weight_gradient(weights[2], found.maps)
        of_wigner = joined(found.wigner) if needed[2] else None
        if of_wigner is not None and of_wigner.shape[1] < wigner.shape[1]:
            of_wigner = pad(of_wigner, (0, wigner.shape[1] - of_wigner.shape[1]))
        of_features = joined(found.features).to(features.dtype) if needed[1] else None
        return [found.x, of_features, of_wigner, joined(found.back) if needed[3] else None, *of_weights]

    def _last_map_vjp(
        self,
        gradient: Tensor,
        second: Tensor,
        kept: Iterator[Tensor],
        back: Tensor,
        receivers: Ends,
        w: _Weights,
        needs_back: bool,
        found: _Found,
    ) -> Tensor:
        """Return the derivative by ``second`` (E'', T, H) of a range of edges."""
        at, tables = self._receivers(receivers), (self.taps.cos, self.taps.sin, self.taps.opposite)
        h = ops.bias_silu(second, w.b2)
        values = next(kept) if self._keeps_values(w) else product(h.flatten(0, 1), w.w3)
        values = values.view(*h.shape[:2], w.w3.shape[0])
        of_v = ops.node_to_edge(gradient, back, *at, gradient.dtype)
        of_v = of_v.unflatten(0, (h.shape[0], self.receiver_row.shape[1]))  # (E'', S, C')
        if needs_back:
            v = ops.tap_mean(values, w.b3, *tables)
            found.back.append(ops.wigner_gradient(v.flatten(0, 1), gradient, *at, back.dtype))
        of_values = ops.tap_mean_backward(of_v, values, w.b3, *tables).flatten(0, 1)
        found.add(3, of_values, h.flatten(0, 1))
        found.add_bias(3, of_values)
        of_h = product(of_values, w.w3.mT).view_as(h)
        return ops.bias_silu_backward(of_h, second, w.b2)

    def _first_map_vjp(
        self,
        of_first: Sequence[Tensor],
        x: Tensor,
        wigner: Tensor,
        ends: Ends,
        maps: Sequence[Tensor],
        needs_wigner: bool,
        found: _Found,
    ) -> None:
        at = self._ends(ends)
        u = ops.node_to_edge(x, wigner, *at, self.dtype)
        of_u = self.taps.first_map_vjp(u, maps, of_first, found.maps)
        if found.x is not None:
            ops.edge_to_node_(found.x, of_u, wigner, *at)
        if needs_wigner:
            found.wigner.append(ops.wigner_gradient(of_u, x, *at, wigner.dtype))

    def _in_dtype(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return matrices in the dtype of products, and biases as they are."""
        return [tensor.to(self.dtype) if tensor.dim() == 2 else tensor for tensor in weights]

    def _keeps_values(self, w: _Weights) -> bool:
        return self.taps.cos.shape[0] == 1 and w.w3.shape[1] > MAX_REPEATED

    def _input_wigner(self, wigner: Tensor) -> Tensor:
        """Return the Wigner matrices of the degrees that signals have."""
        return wigner[:, :1] if self.taps.input_degree < self.lmax else wigner

    def _ends(self, ends: Ends) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int, int]:
        return ends.atom, self.taps.row, ends.order, ends.starts, self.taps.input_degree, self.taps.input_order

    def _receivers(self, ends: Ends) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int, int]:
        return ends.atom, self.receiver_row, ends.order, ends.starts, self.lmax, self.mmax

    def _plus_sums(
        self, sums: Tensor | None, v: Tensor, back: Tensor, at: tuple[Tensor, Tensor, Tensor | None, Tensor | None, int, int]
    ) -> Tensor:
        if sums is None:
            return ops.edge_to_node(v, back, *at, (self.lmax + 1) ** 2)
        if torch.is_grad_enabled():
            return sums + ops.edge_to_node(v, back, *at, (self.lmax + 1) ** 2)
        ops.edge_to_node_(sums, v, back, *at)
        return sums


class _Found:
    """The derivatives by a message's inputs, summed over chunks or chunk by chunk.

    Args:
        num_maps: matrices of the first map.
        x: where to sum those by the signals, or None.
    """

    def __init__(self, num_maps: int, x: Tensor | None) -> None:
        self.x = x
        self.features: list[Tensor] = []
        self.wigner: list[Tensor] = []
        self.back: list[Tensor] = []
        self.maps: list[Tensor | None] = [None] * num_maps
        self.weights: list[Tensor | None] = [None] * 4
        self.biases: list[Tensor | None] = [None] * 4

    def add(self, k: int, gradient: Tensor, x: Tensor) -> None:
        """Add that by the weight of map k, of x (R, in), from that by its result (R, out)."""
        self.weights[k] = plus_product(self.weights[k], x.mT, gradient.mT)  # (in, out), as weights lie in memory

    def add_bias(self, k: int, gradient: Tensor) -> None:
        """Add that by the bias of map k from that by its result."""
        of_bias = gradient.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32))
        self.biases[k] = of_bias if self.biases[k] is None else self.biases[k].add_(of_bias)

    def of(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Return them in the order of the weights and in their dtype; that of the first map is not here."""
        found: list[Tensor | None] = []
        for of_weight, of_bias in zip(self.weights, self.biases, strict=True):
            found += [None if of_weight is None else of_weight.mT, of_bias]
        return [None if t is None else t.to(w.dtype) for t, w in zip(found, weights, strict=True)]


def _taps(lmax: int, mmax: int, num_taps: int) -> tuple[Taps, Taps]:
    return Taps(lmax, mmax, num_taps), Taps(lmax, mmax, num_taps, scalars=True)


def _within(values: Tensor, chunk: Chunk, last: slice) -> Tensor:
    """Return the rows of a range of a chunk's edges."""
    return values[chunk.edges][last]
