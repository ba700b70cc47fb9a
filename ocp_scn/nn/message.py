"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ocp_scn.nn.activations import gated, silu
from ocp_scn.nn.edges import EdgeGroup, Receivers
from ocp_scn.nn.kernel_edges import KernelEdgeGroup, KernelReceivers
from ocp_scn.nn.products import input_major
from ocp_scn.nn.recompute import joined, linear, linears, recomputed
from ocp_scn.nn.taps import OneTap, ScalarInput, Taps
from ocp_scn.ops.chunks import ChunkSizes
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
        self.lmax = lmax
        self.num_kept = num_coefficients(lmax, mmax)  # S
        size = self.num_kept * channels
        self.fc_features = input_major(nn.Linear(num_features, hidden))  # A0
        self.fc1 = input_major(nn.Linear(2 * size, hidden))  # A1
        self.fc2 = input_major(nn.Linear(hidden, hidden))  # A2
        self.fc3 = input_major(nn.Linear(hidden, size))  # A3
        self.taps = _taps(lmax, mmax, num_taps)
        in_evaluation = num_taps if eval_num_taps is None else eval_num_taps
        self.eval_taps = self.taps if in_evaluation == num_taps else _taps(lmax, mmax, in_evaluation)
        self.of_scalars = ScalarInput(lmax, mmax, self.taps)
        self.eval_of_scalars = ScalarInput(lmax, mmax, self.eval_taps)

    @property
    def active_taps(self) -> OneTap | Taps:
        """The taps of training or of evaluation."""
        return self.taps if self.training else self.eval_taps

    def max_edges(self, sizes: ChunkSizes) -> tuple[int, int]:
        """Return how many edges to compute at once, and in the last map; memory is bounded by them."""
        last_values = self.active_taps.num_taps * self.fc3.out_features
        return sizes.message // self.fc3.out_features, sizes.last_map // last_values

    def forward(self, x: Tensor, features: Tensor, group: EdgeGroup | KernelEdgeGroup) -> Tensor:
        """Compute the messages of edges and their sums at the targets.

        Args:
            x: (A, K, C') signals of the atoms; degrees above ``lmax`` are not used. K = 1 where there is
                nothing beyond the coefficient (0, 0).
            features: (E', F) edge features.
            group: the edges, with coefficients in the order of the taps.

        Returns:
            (A', (lmax + 1)**2, C') sums over the edges to each atom of the group.
        """
        taps: OneTap | Taps = self.active_taps
        if x.shape[1] == 1 < self.num_kept:
            taps = self.of_scalars if self.training else self.eval_of_scalars
        inplace = not torch.is_grad_enabled()  # nobody will need what an activation is taken of

        def hidden(e: Tensor, weight: Tensor, bias: Tensor, bias1: Tensor, *first: Tensor) -> tuple[Tensor]:
            return (gated(taps, first, bias1, linear(e, weight), bias, inplace=inplace),)  # (E', T, H)

        def activated(second: Tensor, bias: Tensor) -> tuple[Tensor]:
            return (silu(second, bias, inplace=inplace),)

        def summed(at: Receivers | KernelReceivers, values: Tensor, *others: Tensor) -> Tensor:
            return at.sum(taps, values, *others, inplace=inplace)  # of (E'', T, S C')

        def summed_network(
            at: Receivers | KernelReceivers, second: Tensor, *weights_and_rows: Tensor
        ) -> Tensor:
            bias2, weight, *others = weights_and_rows
            values = linear(silu(second, bias2, inplace=inplace), weight)
            return at.sum(taps, values, *others, inplace=not torch.is_grad_enabled())  # nobody else has them

        first = linears(
            partial(group.first_input, taps), self.fc1.weight, x, *group.inputs(), blocks=taps.blocks
        )
        gate = (features, self.fc_features.weight, self.fc_features.bias, self.fc1.bias)
        (second,) = linears(hidden, self.fc2.weight, *gate, *first)
        sums = []
        receivers: Sequence[Receivers | KernelReceivers] = group.receivers
        parts = second.split([at.num_edges for at in receivers])
        for at, part in zip(receivers, parts, strict=True):
            if taps.num_taps > 1 or self.fc3.in_features <= MAX_REPEATED:
                last = (self.fc2.bias, self.fc3.weight, self.fc3.bias)
                sums.append(recomputed(partial(summed_network, at), part, *last, *at.inputs()))
            else:
                (values,) = linears(activated, self.fc3.weight, part, self.fc2.bias)
                sums.append(recomputed(partial(summed, at), values, self.fc3.bias, *at.inputs()))
        return joined(sums)


def _taps(lmax: int, mmax: int, num_taps: int) -> OneTap | Taps:
    return Taps(lmax, mmax, num_taps) if num_taps > 1 else OneTap(lmax, mmax)
