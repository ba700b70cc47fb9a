"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.edges import Edges
from ocp_scn.nn.message_vjp import MessageMaps, MessageSetting, message_vjp
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
        setting = MessageSetting(
            self.lmax, self.mmax, taps, self.receiver_row, edges.chunks, product_dtype(x)
        )
        maps = (self.fc_features, self.fc1, self.fc2, self.fc3)
        weights = [tensor for fc in maps for tensor in (fc.weight, fc.bias)]
        return recomputed(_Messages(setting), x, features, edges.wigner, edges.back, *weights)


class _Messages(NamedTuple):
    """What :class:`MessageBlock` computes, chunk by chunk."""

    setting: MessageSetting

    def forward(
        self,
        x: Tensor,
        features: Tensor,
        wigner: Tensor,
        back: Tensor,
        *weights: Tensor,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        s, taps = self.setting, self.setting.taps
        a = MessageMaps.of(weights, s.dtype)
        first_maps, into = taps.maps(a.w1), s.input_wigner(wigner)
        sums: Tensor | None = None
        for chunk in s.chunks:
            u = ops.node_to_edge(x, into[chunk.edges], *s.both_ends(chunk.ends), s.dtype)
            first = taps.first_map(u, first_maps)  # (E', 1 or 2, H) each, to be mixed for the taps
            opening = product(features[chunk.edges].to(s.dtype), a.w0)
            h = ops.gate(first, taps.mixing, a.b1, opening, a.b0)  # (E', T, H)
            second = product(h.flatten(0, 1), a.w2).view_as(h)
            if keep is not None:
                keep += [*first, second]
            for edges, receivers in chunk.receivers:
                h = second[edges]
                h = silu_of_own(h, a.b2) if keep is None else ops.bias_silu(h, a.b2)
                values = product(h.flatten(0, 1), a.w3).unflatten(0, h.shape[:2])  # (E'', T, S C')
                if keep is not None and s.keeps_values(a):
                    keep.append(values)
                v = ops.tap_mean(values, a.b3, taps.cos, taps.sin, taps.opposite)  # (E'', S, C')
                turned = v.flatten(0, 1), back[chunk.edges][edges], *s.receivers(receivers)
                if sums is None:
                    sums = ops.edge_to_node(*turned, (s.lmax + 1) ** 2)
                elif torch.is_grad_enabled():
                    sums = sums + ops.edge_to_node(*turned, (s.lmax + 1) ** 2)
                else:
                    ops.edge_to_node_(sums, *turned)
        return x.new_zeros(len(x), (s.lmax + 1) ** 2, x.shape[2]) if sums is None else sums

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], /, *inputs: Tensor
    ) -> Sequence[Tensor | None]:
        return message_vjp(self.setting, gradient, kept, needed, *inputs)


def _taps(lmax: int, mmax: int, num_taps: int) -> tuple[Taps, Taps]:
    return Taps(lmax, mmax, num_taps), Taps(lmax, mmax, num_taps, scalars=True)
