"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ocp_scn.nn.taps import Taps
from ocp_scn.sphere import num_coefficients, rotate_back, rotate_rows


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
        envelope: Tensor | None = None,
    ) -> Tensor:
        """Compute messages.

        Args:
            x: (A, (lmax + 1)**2, C') signals of the atoms.
            features: (E, F) edge features.
            source, target: (E,) ends of the edges.
            rows: Wigner rows of the edge frames for the degrees 0..lmax.
            envelope: (E,) factors of the messages; 1 if None.

        Returns:
            (E, (lmax + 1)**2, C') in the global frame.
        """
        ends = [rotate_rows(rows, x.index_select(0, end)) for end in (source, target)]
        kept = torch.cat(ends, dim=1)  # (E, 2S, C')
        gate = silu(self.fc_features(features))  # (E, H)
        taps = self.taps if self.training else self.eval_taps
        if taps is None:
            values = self._network(self.fc1(kept.flatten(1)), gate)  # (E, S C')
            values = values.view(len(source), self.num_kept, x.shape[-1])
        else:
            first = taps.first_map(kept, self.fc1.weight, self.fc1.bias)  # (E, T, H)
            values = taps.average(self._network(first, gate[:, None]))
        if envelope is not None:
            values = values * envelope[:, None, None]
        return rotate_back(rows, values)

    def _network(self, first: Tensor, gate: Tensor) -> Tensor:
        """Return SiLU(A3 SiLU(A2 (SiLU(A1 u) * gate))) from A1 u."""
        return silu(self.fc3(silu(self.fc2(silu(first) * gate))))
