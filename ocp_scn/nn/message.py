"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ocp_scn.nn.recompute import linears, recomputed
from ocp_scn.nn.taps import Taps
from ocp_scn.sphere import num_coefficients, rotate_back, rotate_degrees


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
        self.num_kept = num_coefficients(lmax, mmax)  # S
        size = self.num_kept * channels
        self.fc_features = nn.Linear(num_features, hidden)  # A0
        self.fc1 = nn.Linear(2 * size, hidden)  # A1
        self.fc2 = nn.Linear(hidden, hidden)  # A2
        self.fc3 = nn.Linear(hidden, size)  # A3
        self.taps = Taps(lmax, mmax, num_taps) if num_taps > 1 else None
        if eval_num_taps is None or eval_num_taps == num_taps:
            self.eval_taps = self.taps
        else:
            self.eval_taps = Taps(lmax, mmax, eval_num_taps) if eval_num_taps > 1 else None

    def forward(
        self,
        x: Tensor,
        features: Tensor,
        source: Tensor,
        target: Tensor,
        rows: list[Tensor],
        rows_back: list[Tensor] | None = None,
    ) -> Tensor:
        """Compute messages.

        Args:
            x: (A, (lmax + 1)**2, C') signals of the atoms.
            features: (E, F) edge features.
            source, target: (E,) ends of the edges.
            rows: Wigner rows of the edge frames for the degrees 0..lmax.
            rows_back: those that turn messages back, where they carry a factor; ``rows`` if None.

        Returns:
            (E, (lmax + 1)**2, C') in the global frame.
        """
        taps = self.taps if self.training else self.eval_taps

        def in_edge_frames(x: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
            ends = [rotate_degrees(rows, x.index_select(0, end)) for end in (source, target)]
            if taps is None:
                return (torch.cat(ends[0] + ends[1], dim=1).flatten(1)[:, None],)  # (E, 1, 2 S C')
            return taps.split_input(ends)

        def gated(gate: Tensor, bias: Tensor, *first: Tensor) -> tuple[Tensor]:
            rolled = taps.waves @ torch.cat(first, dim=1) if taps else first[0]  # (E, T, H)
            return (silu(rolled + bias) * silu(gate)[:, None],)

        def activated(second: Tensor, bias: Tensor) -> tuple[Tensor]:
            return (silu(second + bias),)

        def in_global_frame(values: Tensor, bias: Tensor, *rows: Tensor) -> Tensor:
            values = silu(values + bias)  # (E, T, S C')
            kept = taps.average(values) if taps else values.view(len(values), self.num_kept, x.shape[-1])
            return rotate_back(rows, kept)

        weights = taps.split_weight(self.fc1.weight) if taps else (self.fc1.weight,)
        first = linears(in_edge_frames, weights, x, *rows)
        gate = self.fc_features(features)
        (second,) = linears(gated, (self.fc2.weight,), gate, self.fc1.bias, *first)
        (values,) = linears(activated, (self.fc3.weight,), second, self.fc2.bias)
        return recomputed(in_global_frame, values, self.fc3.bias, *(rows_back or rows))
