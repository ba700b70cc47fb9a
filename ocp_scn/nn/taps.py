"""Taps: rolls of the edge frame that a message is averaged over."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from ocp_scn.sphere import TableModule, kept_orders


class Taps(TableModule):
    """The linear algebra of T > 1 rolls by 2 pi t / T, which needs no rotation once a tap.

    A roll by phi leaves m = 0 alone and mixes the orders -m, +m = (n, p) into
    (n cos - p sin, n sin + p cos) of m phi.

    Args:
        lmax: largest degree.
        mmax: M, largest |order| kept.
        num_taps: T.
    """

    def __init__(self, lmax: int, mmax: int, num_taps: int) -> None:
        super().__init__()
        orders = kept_orders(lmax, mmax)
        self.num_taps = num_taps
        self.num_kept = len(orders)  # S
        angles = 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps
        frequencies = torch.arange(mmax + 1, dtype=torch.float64)
        phases = angles[:, None] * frequencies  # (T, M + 1)
        self.register_table("waves", torch.cat([phases.cos(), phases[:, 1:].sin()], dim=1))
        self.register_table("untap", _roll_back_and_average(orders, angles))
        # Positions among the kept coefficients of all that have one order, for m = -M..M.
        self.order_index = [
            [orders.index(pair) for pair in orders if pair[1] == m] for m in range(-mmax, mmax + 1)
        ]

    def first_map(self, kept: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply a linear map to each tap's roll of kept coefficients.

        A map A of a rolled input is A_0 u_0 + sum_m cos(m phi) A_m (n, p) + sin(m phi) A_m (-p, n), so
        2 M + 1 smaller products serve any number of taps.

        Args:
            kept: (E, 2 S, C') coefficients of both ends.
            weight: (H, 2 S C').
            bias: (H,).

        Returns:
            (E, T, H).
        """
        num_edges, _, channels = kept.shape
        kept = kept.view(num_edges, 2, self.num_kept, channels)
        weight = weight.view(-1, 2, self.num_kept, channels)

        def part(coefficients: Tensor, index: list[int]) -> Tensor:
            return linear(coefficients.flatten(1), weight[:, :, index].flatten(1))

        middle = len(self.order_index) // 2
        zero = self.order_index[middle]
        cosines, sines = [part(kept[:, :, zero], zero) + bias], []
        for m in range(1, middle + 1):
            minus, plus = self.order_index[middle - m], self.order_index[middle + m]
            n, p = kept[:, :, minus], kept[:, :, plus]
            cosines.append(part(torch.cat([n, p], dim=2), minus + plus))
            sines.append(part(torch.cat([-p, n], dim=2), minus + plus))
        return self.waves @ torch.stack(cosines + sines, dim=1)  # (T, 2M + 1) @ (E, 2M + 1, H)

    def average(self, values: Tensor) -> Tensor:
        """Roll each tap's coefficients (E, T, S C') back and average the taps: (E, S, C')."""
        channels = values.shape[-1] // self.num_kept
        return self.untap @ values.view(len(values), self.num_taps * self.num_kept, channels)


def _roll_back_and_average(orders: list[tuple[int, int]], angles: Tensor) -> Tensor:
    """Return the matrix (S, T S) that rolls each tap's coefficients back and averages the taps."""
    matrix = torch.zeros(len(orders), len(angles), len(orders), dtype=torch.float64)
    for row, (degree, m) in enumerate(orders):
        matrix[row, :, row] = (m * angles).cos()
        if m != 0:  # sin(m phi) has the sign of m: n cos + p sin for -m, p cos - n sin for +m
            matrix[row, :, orders.index((degree, -m))] = -(m * angles).sin()
    return matrix.flatten(1) / len(angles)
