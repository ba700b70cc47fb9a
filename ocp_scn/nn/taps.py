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
    A_0 u_0 + sum_m cos(m phi) (A_n n + A_p p) + sin(m phi) (A_p n - A_n p): 2 M + 1 products serve any
    number of taps. Kept coefficients are sorted by order here: 0, then -1, +1, then -2, +2, ...

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
        # For m = 0..M the positions, sorted by degree, of the orders -m and +m (once for m = 0).
        self.positions = [
            [[k for k, pair in enumerate(orders) if pair[1] == sign * m] for sign in ((-1, 1) if m else (1,))]
            for m in range(mmax + 1)
        ]
        self.by_order = [k for halves in self.positions for half in halves for k in half]
        self.register_table("untap", _roll_back_and_average(orders, angles)[self.by_order])  # (S, T S)

    def split_weight(self, weight: Tensor) -> list[Tensor]:
        """Return the parts of a map (H, 2 S C') for source and target, of the orders 0..M.

        The part of order 0 is (H, S_0 C'); that of m > 0 is (2 H, 2 S_m C') and gives the factors of
        cos(m phi) and of sin(m phi).
        """
        parts = weight.view(len(weight), 2, len(self.by_order), -1)
        split = []
        for end in range(2):
            for halves in self.positions:
                minus, *plus = (parts[:, end, half] for half in halves)
                cosine = torch.cat([minus, *plus], dim=1)
                both = torch.cat([cosine, *(torch.cat([p, -minus], dim=1) for p in plus)])
                split.append(both.flatten(1))
        return split

    def split_input(self, kept: Tensor) -> list[Tensor]:
        """Return the orders 0..M of kept coefficients (E, S, C'), as inputs (E, ·) of the parts."""
        sizes = [sum(map(len, halves)) for halves in self.positions]
        return [part.flatten(1) for part in kept.split(sizes, dim=1)]

    def roll(self, sums: tuple[Tensor, ...]) -> Tensor:
        """Return the map of each tap's roll (E, T, H) from the parts' results (E, H), (E, 2 H), ..."""
        first = sums[0]
        return self.waves @ torch.cat(sums, dim=1).view(len(first), self.waves.shape[1], first.shape[1])

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
