"""The message of an edge: a network on the coefficients of both ends in the edge's frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ocp_scn.sphere import TableModule, kept_orders, rotate_back, rotate_rows


class MessageBlock(TableModule):
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
    """

    def __init__(
        self, *, lmax: int, mmax: int, num_taps: int, channels: int, hidden: int, num_features: int
    ) -> None:
        super().__init__()
        self.num_taps = num_taps
        orders = kept_orders(lmax, mmax)
        self.num_kept = len(orders)  # S
        self.fc_features = nn.Linear(num_features, hidden)  # A0
        self.fc1 = nn.Linear(2 * self.num_kept * channels, hidden)  # A1
        self.fc2 = nn.Linear(hidden, hidden)  # A2
        self.fc3 = nn.Linear(hidden, self.num_kept * channels)  # A3
        if num_taps > 1:
            angles = 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps
            frequencies = torch.arange(mmax + 1, dtype=torch.float64)
            phases = angles[:, None] * frequencies  # (T, M + 1)
            self.register_table("tap_waves", torch.cat([phases.cos(), phases[:, 1:].sin()], dim=1))
            self.register_table("untap", _roll_back_and_average(orders, angles))
            # Positions among the kept coefficients, first by order: (l, 0), then (l, -m), (l, +m).
            self.order_index = [
                [orders.index(pair) for pair in orders if pair[1] == m] for m in range(-mmax, mmax + 1)
            ]

    def forward(
        self, x: Tensor, features: Tensor, source: Tensor, target: Tensor, rows: list[Tensor]
    ) -> Tensor:
        """Compute messages.

        Args:
            x: (A, (lmax + 1)**2, C') signals of the atoms.
            features: (E, F) edge features.
            source, target: (E,) ends of the edges.
            rows: Wigner rows of the edge frames for the degrees 0..lmax.

        Returns:
            (E, (lmax + 1)**2, C') in the global frame.
        """
        ends = [rotate_rows(rows, x.index_select(0, end)) for end in (source, target)]
        kept = torch.cat(ends, dim=1)  # (E, 2S, C')
        hidden = silu(self._first_map(kept)) * silu(self.fc_features(features))[:, None]  # (E, T, H)
        values = silu(self.fc3(silu(self.fc2(hidden))))  # (E, T, S C')
        values = values.reshape(len(source), self.num_taps * self.num_kept, x.shape[-1])  # (E, T S, C')
        if self.num_taps > 1:
            values = self.untap @ values  # (E, S, C')
        return rotate_back(rows, values)

    def _first_map(self, kept: Tensor) -> Tensor:
        """Return A1 applied to each tap's roll of the kept coefficients (E, 2S, C'): (E, T, H).

        A roll by phi leaves m = 0 alone and mixes the orders -m, +m = (n, p) into
        (n cos - p sin, n sin + p cos) of m phi. So A1 of a rolled input is
        A1_0 u_0 + sum_m cos(m phi) A1_m (n, p) + sin(m phi) A1_m (-p, n): 2 M + 1 smaller products
        serve any number of taps.
        """
        if self.num_taps == 1:
            return self.fc1(kept.flatten(1))[:, None]
        num_edges, _, channels = kept.shape
        kept = kept.view(num_edges, 2, self.num_kept, channels)
        weight = self.fc1.weight.view(-1, 2, self.num_kept, channels)

        def part(coefficients: Tensor, index: list[int]) -> Tensor:
            return linear(coefficients.flatten(1), weight[:, :, index].flatten(1))

        middle = len(self.order_index) // 2
        zero = self.order_index[middle]
        cosines, sines = [part(kept[:, :, zero], zero) + self.fc1.bias], []
        for m in range(1, middle + 1):
            minus, plus = self.order_index[middle - m], self.order_index[middle + m]
            n, p = kept[:, :, minus], kept[:, :, plus]
            cosines.append(part(torch.cat([n, p], dim=2), minus + plus))
            sines.append(part(torch.cat([-p, n], dim=2), minus + plus))
        waves = torch.stack(cosines + sines, dim=1)  # (E, 2M + 1, H)
        return self.tap_waves @ waves


def _roll_back_and_average(orders: list[tuple[int, int]], angles: Tensor) -> Tensor:
    """Return the matrix (S, T S) that rolls each tap's coefficients back and averages the taps."""
    matrix = torch.zeros(len(orders), len(angles), len(orders), dtype=torch.float64)
    for row, (degree, m) in enumerate(orders):
        matrix[row, :, row] = (m * angles).cos()
        if m != 0:  # sin(m phi) has the sign of m: n cos + p sin for -m, p cos - n sin for +m
            matrix[row, :, orders.index((degree, -m))] = -(m * angles).sin()
    return matrix.flatten(1) / len(angles)
