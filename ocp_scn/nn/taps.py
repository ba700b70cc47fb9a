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
    A_0 u_0 + sum_m cos(m phi) A_m (n, p) + sin(m phi) A_m (-p, n): 2 M + 1 products with parts of A
    serve any number of taps.

    Args:
        lmax: largest degree.
        mmax: M, largest |order| kept.
        num_taps: T.
    """

    def __init__(self, lmax: int, mmax: int, num_taps: int) -> None:
        super().__init__()
        orders = kept_orders(lmax, mmax)
        self.mmax, self.num_taps, self.num_kept = mmax, num_taps, len(orders)
        angles = 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps
        waves = [torch.ones_like(angles)]
        for m in range(1, mmax + 1):
            waves += [(m * angles).cos(), (m * angles).sin()]
        self.register_table("waves", torch.stack(waves, dim=1))  # (T, 2 M + 1)
        self.register_table("untap", _roll_back_and_average(orders, angles))  # (S, T S)
        # Positions among the kept coefficients of the orders 0, and of -m and +m together.
        self.order_index = [
            [
                orders.index(pair)
                for sign in ((-1, 1) if m else (1,))
                for pair in orders
                if pair[1] == sign * m
            ]
            for m in range(mmax + 1)
        ]

    def split_weight(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of a map (H, 2 S C') that act on each of the inputs of :meth:`split_input`."""
        parts = weight.view(len(weight), 2, self.num_kept, -1)
        return tuple(parts[:, :, index].flatten(1) for index in self.order_index)

    def split_input(self, ends: list[list[Tensor]]) -> tuple[Tensor, ...]:
        """Sort the kept coefficients of both ends by order.

        Args:
            ends: for source and target, a tensor (E, 2 min(l, M) + 1, C') for each degree l.

        Returns:
            u_0 as (E, 1, 2 S_0 C') and, for each m > 0, (n, p) and (-p, n) as (E, 2, 2 S_m C'), where S_m
            counts the coefficients of the orders -m and +m.
        """
        inputs = []
        for m in range(self.mmax + 1):
            blocks = [[(b, b.shape[1] // 2) for b in end if b.shape[1] > 2 * m] for end in ends]
            minus = [[b[:, middle - m] for b, middle in end] for end in blocks]
            plus = [[b[:, middle + m] for b, middle in end] for end in blocks]
            if m == 0:
                inputs.append(torch.cat(plus[0] + plus[1], dim=1)[:, None])
                continue
            cosine = torch.cat(minus[0] + plus[0] + minus[1] + plus[1], dim=1)
            negative = [[-p for p in end] for end in plus]
            sine = torch.cat(negative[0] + minus[0] + negative[1] + minus[1], dim=1)
            inputs.append(torch.stack([cosine, sine], dim=1))
        return tuple(inputs)

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
