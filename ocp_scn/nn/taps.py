"""Taps: rolls of the edge frame that a message is averaged over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ocp_scn.kernels import Layout, Mean, Rolls, Row
from ocp_scn.sphere import TableModule, kept_orders, num_coefficients


class OneTap(TableModule):
    """The edge frames as they are, with what :class:`Taps` has for several rolls of them.

    Args:
        lmax: largest degree.
        mmax: largest |order| kept.
    """

    num_taps = 1
    waves: Tensor  # (T, W), what makes the rolls' maps of the first map's results (E, W, H)
    first_layout = Layout((1,), (Row(0, 0),))  # of those W
    blocks: Tensor | None  # of the first map, which it takes in this order

    def __init__(self, lmax: int, mmax: int) -> None:
        super().__init__()
        self.by_order: list[int] | None = None
        self.register_buffer("blocks", None, persistent=False)
        self.register_table("waves", torch.ones(1, 1, dtype=torch.float64))
        self.num_kept = num_coefficients(lmax, mmax)
        self.layouts = tuple(
            in_order(self.num_kept, end * self.num_kept, 2 * self.num_kept) for end in range(2)
        )

    def split_input(self, ends: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what the first map multiplies (E, 2 S C') from both ends' coefficients, (E, S, C') each."""
        return self.parts([torch.cat(list(ends), dim=1)])

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the same from tensors in :attr:`layouts`."""
        return (tensors[0].flatten(1),)

    def roll(self, first: Sequence[Tensor]) -> Tensor:
        """Return the map of the only roll (E, 1, H) from the map's result (E, H)."""
        return first[0].unsqueeze(1)

    @property
    def rolls(self) -> Rolls:
        """The rolls for kernels, of the first map's results."""
        return Rolls(self.waves.float(), self.first_layout)

    def average(self, values: Tensor) -> Tensor:
        """Return the coefficients (E, S, C') of the only roll (E, 1, S C')."""
        return values.view(len(values), self.num_kept, values.shape[-1] // self.num_kept)


class ScalarInput(OneTap):
    """What becomes of taps where signals have the coefficient (0, 0) only, which no rotation changes.

    The first map then needs no more than that coefficient's columns, and its result is the same for all
    taps, so that one stands for them. Rolled back and averaged, coefficients of order m stay as they are if
    m is a multiple of T, and vanish else.

    Args:
        lmax: largest degree of the messages.
        mmax: largest |order| kept.
        taps: T rolls.
    """

    def __init__(self, lmax: int, mmax: int, taps: OneTap | Taps) -> None:
        super().__init__(lmax, mmax)
        self.by_order = taps.by_order
        self.layouts = tuple(in_order(1, end, 2) for end in range(2))
        self.blocks = torch.tensor([0, self.num_kept])
        stays = [order % taps.num_taps == 0 for _, order in kept_orders(lmax, mmax)]
        self.all_stay = all(stays)
        self.register_table("stays", torch.tensor(stays, dtype=torch.float64)[:, None])

    def average(self, values: Tensor) -> Tensor:
        """Return the coefficients (E, S, C') of the mean of equal rolls, given one of them (E, 1, S C')."""
        kept = super().average(values)
        return kept if self.all_stay else kept * self.stays.to(values.dtype)


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
        pairs = tuple(Row(m, k) for m in range(1, mmax + 1) for k in range(2))
        self.first_layout = Layout((1, *[2] * mmax), (Row(0, 0), *pairs))
        self.by_order = sorted(range(len(orders)), key=lambda k: (abs(orders[k][1]), orders[k][1]))
        self.sizes = [sum(abs(order) == m for _, order in orders) for m in range(mmax + 1)]
        # Of a map (H, 2 S C'): both ends' coefficients of order 0, then both ends' of orders -1 and +1, ...
        parts = torch.tensor(self.by_order).split(self.sizes)
        blocks = torch.cat([torch.cat([part, part + len(orders)]) for part in parts])
        self.register_buffer("blocks", blocks, persistent=False)
        back = _roll_back_and_average(orders, angles)  # (S, T, S)
        self.register_table("untap", back[self.by_order].flatten(1))  # (S, T S)
        partner = torch.tensor([orders.index((degree, -m)) for degree, m in orders])
        each = torch.arange(len(orders))
        crossed = torch.where(partner == each, 0.0, back[partner, :, each].T)
        self.register_table("own", back[each, :, each].T.contiguous())  # (T, S)
        self.register_table("cross", crossed.contiguous())  # (T, S)
        self.register_buffer("partner", partner, persistent=False)  # (S,)
        self.layouts = tuple(self._layout(end) for end in range(2))

    def split_input(self, ends: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what the parts of the first map multiply, for both ends side by side.

        Args:
            ends: (E, S, C') coefficients of both, sorted by order.

        Returns:
            u_0 (E, 1, ·), then (n, p) above (-p, n) as (E, 2, ·) for each order.
        """
        (zero, *others), (zero_there, *others_there) = (end.split(self.sizes, dim=1) for end in ends)
        pairs = []
        for here, there in zip(others, others_there, strict=True):
            n, p = here.chunk(2, dim=1)
            n_there, p_there = there.chunk(2, dim=1)
            pairs.append(torch.cat([n, p, n_there, p_there, -p, n, -p_there, n_there], dim=1))
        return self.parts([torch.cat([zero, zero_there], dim=1), *pairs])

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the same from tensors in :attr:`layouts`."""
        copies = [1] + [2] * (len(tensors) - 1)
        return tuple(t.unflatten(1, (n, -1)).flatten(2) for n, t in zip(copies, tensors, strict=True))

    def roll(self, first: Sequence[Tensor]) -> Tensor:
        """Return the map of each tap's roll (E, T, H) from the parts' results (E, 1, H), (E, 2, H), ..."""
        return self.waves @ torch.cat(list(first), dim=1)

    @property
    def rolls(self) -> Rolls:
        """The rolls for kernels, of the parts' results."""
        return Rolls(self.waves.float(), self.first_layout)

    def average(self, values: Tensor) -> Tensor:
        """Roll each tap's coefficients (E, T, S C') back and average the taps: (E, S, C')."""
        num_kept = len(self.by_order)
        return self.untap @ values.view(len(values), self.num_taps * num_kept, values.shape[-1] // num_kept)

    @property
    def mean(self) -> Mean:
        """The same for kernels, which keep the order of coefficients."""
        return Mean(self.own.float(), self.cross.float(), self.partner)

    def _layout(self, end: int) -> Layout:
        """Return where one end's coefficients lie, 0 for the first; both ends' layouts fill the parts."""
        rows: dict[int, Row] = {}
        first = 0
        for m, size in enumerate(self.sizes):
            half, width = size // 2, 2 * size  # coefficients of order -m, rows of (n, p) of both ends
            for k, coefficient in enumerate(self.by_order[first : first + size]):
                row = end * size + k
                if m == 0:
                    rows[coefficient] = Row(0, row)
                elif k < half:  # n, which is the second one of (-p, n)
                    rows[coefficient] = Row(m, row, width + row + half)
                else:
                    rows[coefficient] = Row(m, row, width + row - half, -1.0)
            first += size
        sizes = (2 * self.sizes[0], *(4 * size for size in self.sizes[1:]))
        return Layout(sizes, tuple(rows[k] for k in range(len(rows))))


def in_order(size: int, first: int = 0, of: int | None = None) -> Layout:
    """Return the layout of coefficients in their order, from row ``first`` on of a part with ``of`` rows."""
    return Layout((of or size,), tuple(Row(0, first + k) for k in range(size)))


def _roll_back_and_average(orders: list[tuple[int, int]], angles: Tensor) -> Tensor:
    """Return the matrix (S, T, S) that rolls each tap's coefficients back and averages the taps."""
    matrix = torch.zeros(len(orders), len(angles), len(orders), dtype=torch.float64)
    for row, (degree, m) in enumerate(orders):
        matrix[row, :, row] = (m * angles).cos()
        if m != 0:  # sin(m phi) has the sign of m: n cos + p sin for -m, p cos - n sin for +m
            matrix[row, :, orders.index((degree, -m))] = -(m * angles).sin()
    return matrix / len(angles)
