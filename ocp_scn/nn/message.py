"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ocp_scn.nn.edges import EdgeGroup, Receivers, sum_at_targets, to_edge_frames
from ocp_scn.nn.products import input_major
from ocp_scn.nn.recompute import linear, linears, recomputed, silu_of_own
from ocp_scn.nn.taps import Taps
from ocp_scn.sphere import num_coefficients

# Numbers that a tap of the edges that are computed at once has in its largest tensor: enough edges for
# efficient matrix products, few enough for little memory.
MAX_VALUES = 2**21
# The same for all taps together where that tensor itself is computed: small enough for caches.
MAX_LAST_VALUES = 2**21
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
        self.taps = Taps(lmax, mmax, num_taps) if num_taps > 1 else None
        if eval_num_taps is None or eval_num_taps == num_taps:
            self.eval_taps = self.taps
        else:
            self.eval_taps = Taps(lmax, mmax, eval_num_taps) if eval_num_taps > 1 else None

    @property
    def active_taps(self) -> Taps | None:
        """The taps of training or of evaluation; None for one tap."""
        return self.taps if self.training else self.eval_taps

    def kept_order(self) -> list[int] | None:
        """Return in which order the rows of edge groups have to keep coefficients; None: by degree."""
        return self.active_taps.by_order if self.active_taps else None

    def max_edges(self) -> tuple[int, int]:
        """Return how many edges to compute at once, and in the last map; memory is bounded by them."""
        num_taps = self.active_taps.num_taps if self.active_taps else 1
        return MAX_VALUES // self.fc3.out_features, MAX_LAST_VALUES // (num_taps * self.fc3.out_features)

    def forward(self, x: Tensor, features: Tensor, group: EdgeGroup) -> Tensor:
        """Compute the messages of edges and their sums at the targets.

        Args:
            x: (A, K, C') signals of the atoms; degrees above ``lmax`` are not used.
            features: (E', F) edge features.
            group: the edges, with rows in :meth:`kept_order`.

        Returns:
            (A', (lmax + 1)**2, C') sums over the edges to each atom of the group.
        """
        taps = self.active_taps
        inplace = not torch.is_grad_enabled()  # nobody will need what an activation is taken of

        def in_edge_frames(x: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
            of_ends = zip(rows, (group.source, group.target), strict=True)
            ends = [to_edge_frames(x, r, end) for r, end in of_ends]  # (E', S, C') each
            if taps is None:
                return tuple(end.flatten(1) for end in ends)
            return tuple(part for end in ends for part in taps.split_input(end))

        def gated(e: Tensor, weight: Tensor, bias: Tensor, *first: Tensor) -> tuple[Tensor]:
            rolled = taps.roll(first) if taps else first[0].unsqueeze(1)  # (E', T, H)
            gate = silu_of_own(linear(e, weight, bias)).unsqueeze(1)
            rolled = silu_of_own(rolled) if taps else silu(rolled, inplace)
            return (rolled * gate if torch.is_grad_enabled() else rolled.mul_(gate),)

        def activated(second: Tensor) -> tuple[Tensor]:
            return (silu(second, inplace),)

        def turned_back(at: Receivers, values: Tensor, rows: Tensor) -> Tensor:  # of (E'', T, S C')
            kept = taps.average(values) if taps else values.view(len(values), self.num_kept, x.shape[-1])
            return sum_at_targets(kept, rows, at)

        def summed(at: Receivers, values: Tensor, rows: Tensor) -> Tensor:
            return turned_back(at, silu(values, inplace), rows)

        def summed_network(
            at: Receivers, second: Tensor, weight: Tensor, bias: Tensor, rows: Tensor
        ) -> Tensor:
            return turned_back(at, silu_of_own(linear(silu(second, inplace), weight, bias)), rows)

        first = linears(
            in_edge_frames,
            self.fc1.weight,
            self.fc1.bias,
            x,
            group.source.rows,
            group.target.rows,
            blocks=taps.blocks if taps else None,
            into=[*range(len(taps.sizes))] * 2 if taps else None,  # source and target, order by order
        )
        gate = (features, self.fc_features.weight, self.fc_features.bias)
        (second,) = linears(gated, self.fc2.weight, self.fc2.bias, *gate, *first)
        last = (self.fc3.weight, self.fc3.bias)
        sums = []
        parts = second.split([at.num_edges for at in group.receivers])
        for at, part in zip(group.receivers, parts, strict=True):
            if taps or self.fc3.in_features <= MAX_REPEATED:
                sums.append(recomputed(partial(summed_network, at), part, *last, at.rows))
            else:
                (values,) = linears(activated, *last, part)
                sums.append(recomputed(partial(summed, at), values, at.rows))
        return torch.cat(sums)
