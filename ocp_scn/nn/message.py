"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.edges import Edges, Ends
from ocp_scn.nn.message_vjp import MessageMaps, MessageSetting, by_resolution, message_vjp
from ocp_scn.nn.products import input_major, product, product_dtype
from ocp_scn.nn.recompute import recomputed
from ocp_scn.nn.taps import Taps
from ocp_scn.ops.chunks import ChunkSizes
from ocp_scn.sphere import num_coefficients


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

    def setting(self, x: Tensor, edges: Edges) -> MessageSetting:
        """Return what the messages of edges depend on, beside tensors with derivatives."""
        if x.shape[1] == 1 < self.num_kept:  # signals have the coefficient (0, 0) only
            taps = self.taps_of_scalars if self.training else self.eval_taps_of_scalars
        else:
            taps = self.taps if self.training else self.eval_taps
        return MessageSetting(self.lmax, self.mmax, taps, self.receiver_row, edges.chunks, product_dtype(x))

    def weights(self) -> list[Tensor]:
        """Return the four maps' weights and biases."""
        maps = (self.fc_features, self.fc1, self.fc2, self.fc3)
        return [tensor for fc in maps for tensor in (fc.weight, fc.bias)]

    def forward(self, x: Tensor, features: Tensor, edges: Edges) -> Tensor:
        """Return `sum_messages` of this resolution alone: (A, (lmax + 1)**2, C')."""
        return sum_messages([self], x, [features], [edges])


def sum_messages(
    blocks: Iterable[MessageBlock], x: Tensor, features: Sequence[Tensor], edges: Sequence[Edges]
) -> Tensor:
    """Compute the messages of all resolutions and their sums at the receivers, as one step for autograd.

    Args:
        blocks: of each resolution, the first one with the largest degree L.
        x: (A, K, C') signals of the atoms; K = 1 if they have the coefficient (0, 0) only.
        features: (E, F) edge features of each resolution.
        edges: those of each resolution.

    Returns:
        (A, (L + 1)**2, C') sums of the messages, in the dtype of the Wigner matrices.
    """
    settings, tensors = [], []
    for block, e, of_resolution in zip(blocks, features, edges, strict=True):
        settings.append(block.setting(x, of_resolution))
        tensors += [e, of_resolution.wigner, of_resolution.back, *block.weights()]
    return recomputed(_Messages(settings), x, *tensors)


class _Messages(NamedTuple):
    """The step that `sum_messages` takes."""

    settings: list[MessageSetting]

    def forward(self, x: Tensor, *tensors: Tensor, keep: list[Tensor] | None = None) -> Tensor:
        sums: Tensor | None = None
        size = (self.settings[0].lmax + 1) ** 2
        for _, s, of_resolution in by_resolution(self.settings, tensors):
            for message in _messages(s, x, *of_resolution, keep=keep):
                if sums is None:
                    sums = ops.edge_to_node(*message, size)
                elif torch.is_grad_enabled():
                    sums = sums + ops.edge_to_node(*message, size)
                else:
                    ops.edge_to_node_(sums, *message)
        return x if sums is None else sums  # there is always a first chunk

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], /, *inputs: Tensor
    ) -> Sequence[Tensor | None]:
        return message_vjp(self.settings, gradient, kept, needed, *inputs)


def _messages(
    s: MessageSetting,
    x: Tensor,
    features: Tensor,
    wigner: Tensor,
    back: Tensor,
    *weights: Tensor,
    keep: list[Tensor] | None,
) -> Iterator[tuple[Any, ...]]:
    """Yield the messages of some edges after the others in their frames, and how they turn back."""
    a = MessageMaps.of(weights, s.dtype)
    first_maps, into = s.first_maps(a), s.input_wigner(wigner)
    for chunk in s.chunks:
        e = features[chunk.edges].to(s.dtype)
        second = _hidden(s, a, x, e, into[chunk.edges], chunk.ends, first_maps(), keep)
        for edges, receivers in chunk.receivers:
            v = _last_map(s, a, second[edges], keep)
            yield v, back[chunk.edges][edges], *s.receivers(receivers)


def _hidden(
    s: MessageSetting,
    a: MessageMaps,
    x: Tensor,
    features: Tensor,
    wigner: Tensor,
    ends: Ends,
    first_maps: Iterable[Tensor],
    keep: list[Tensor] | None,
) -> Tensor:
    """Return the second map's results (E', T, H) of some edges; all before them is freed, or kept."""
    u = ops.node_to_edge(x, wigner, *s.both_ends(ends), s.dtype)
    first = s.taps.first_map(u, first_maps)  # (E', 1 or 2, H) each, to be mixed for the taps
    del u
    h = ops.gate(first, s.taps.mixing, a.b1, product(features, a.w0), a.b0)  # (E', T, H)
    second = product(h.flatten(0, 1), a.w2).view_as(h)
    if keep is not None:
        keep += [*first, second]
    return second


def _last_map(s: MessageSetting, a: MessageMaps, second: Tensor, keep: list[Tensor] | None) -> Tensor:
    """Return the coefficients (E'' S, C') of messages from the second map's results of some edges."""
    h = silu_of_own(second, a.b2) if keep is None else ops.bias_silu(second, a.b2)
    values = product(h.flatten(0, 1), a.w3).unflatten(0, h.shape[:2])  # (E'', T, S C')
    kept = keep is not None and s.keeps_values(a)
    if keep is not None and kept:
        keep.append(values)
    return s.taps.average(values, a.b3, own=not kept)


def _taps(lmax: int, mmax: int, num_taps: int) -> tuple[Taps, Taps]:
    return Taps(lmax, mmax, num_taps), Taps(lmax, mmax, num_taps, scalars=True)
