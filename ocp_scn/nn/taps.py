"""Taps: rolls of the edge frame that a message is averaged over."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ocp_scn.sphere import TableModule, kept_orders


class Taps(TableModule):
    """The linear algebra of T rolls by 2 pi t / T, which needs no rotation once a tap.

    A roll by phi leaves m = 0 alone and mixes the orders -m, +m = (n, p) into
    (n cos - p sin, n sin + p cos) of m phi. A linear map A of a rolled input is then
    A_0 u_0 + sum_m cos(m phi) A_m (n, p) + sin(m phi) A_m (-p, n): one product with each part A_m serves
    any number of taps. Kept coefficients are sorted by order here: 0, then -1, +1, then -2, +2, ...

    Args:
        lmax: largest degree.
        mmax: M, largest |order| kept.
        num_taps: T.
    """

    def __init__(self, lmax: int, mmax: int, num_taps: int) -> None:
        super().__init__()
        orders = kept_orders(lmax, mmax)
        self.num_taps = num_taps
        angles = 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps
        waves = [torch.ones_like(angles)]
        for m in range(1, mmax + 1):
            waves += [(m * angles).cos(), (m * angles).sin()]
        self.register_table("waves", torch.stack(waves, dim=1))  # (T, 2 M + 1)
        self.by_order = sorted(range(len(orders)), key=lambda k: (abs(orders[k][1]), orders[k][1]))
        self.sizes = [sum(abs(order) == m for _, order in orders) for m in range(mmax + 1)]
        both = torch.tensor(self.by_order), torch.tensor(self.by_order) + len(orders)
        self.register_buffer("blocks", torch.cat(both), persistent=False)  # of a map (H, 2 S C'), by order
        self.register_table("untap", _roll_back_and_average(orders, angles)[self.by_order])  # (S, T S)

    def split_input(self, kept: Tensor) -> list[Tensor]:
        """Return what the parts multiply: u_0 (E, 1, ·), then (n, p) and (-p, n) as (E, 2, ·) by order.

        Args:
            kept: (E, S, C') coefficients sorted by order.
        """
        zero, *others = kept.split(self.sizes, dim=1)
        pairs = []
        for part in others:
            n, p = part.chunk(2, dim=1)
            pairs.append(torch.cat([n, p, -p, n], dim=1).unflatten(1, (2, -1)).flatten(2))
        return [zero.flatten(1)[:, None], *pairs]

    def roll(self, sums: tuple[Tensor, ...]) -> Tensor:
        """Return the map of each tap's roll (E, T, H) from the parts' results (E, 1, H), (E, 2, H), ..."""
        return self.waves @ torch.cat(sums, dim=1)

    def average(self, values: Tensor) -> Tensor:
        """Roll each tap's coefficients (E, T, S C') back and average the taps: (E, S, C')."""
        num_kept = len(self.by_order)
        return self.untap @ values.view(len(values), self.num_taps * num_kept, values.shape[-1] // num_kept)


def _roll_back_and_average(orders: list[tuple[int, int]], angles: Tensor) -> Tensor:
    """Return the matrix (S, T S) that rolls each tap's coefficients back and averages the taps."""
    matrix = torch.zeros(len(orders), len(angles), len(orders), dtype=torch.float64)
    for row, (degree, m) in enumerate(orders):
        matrix[row, :, row] = (m * angles).cos()
        if m != 0:  # sin(m phi) has the sign of m: n cos + p sin for -m, p cos - n sin for +m
            matrix[row, :, orders.index((degree, -m))] = -(m * angles).sin()
    return matrix.flatten(1) / len(angles)
