"""Taps: rolls of the edge frame that a message is averaged over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.products import plus_product, product, product_
from ocp_scn.ops.chunks import gathered_at_once
from ocp_scn.sphere import TableModule, kept_orders


class Taps(TableModule):
    """The linear algebra of T rolls by 2 pi t / T, which needs no rotation once a tap.

    A roll by phi leaves m = 0 alone and mixes the orders -m, +m = (n, p) into
    (n cos - p sin, n sin + p cos) of m phi. With A_n and A_p for a linear map's columns of n and p, the
    map of a rolled input is therefore

        A_0 u_0 + sum_m cos(m phi) (A_n n + A_p p) + sin(m phi) (A_p n - A_n p):

    these two sums of products serve any number of taps. What the map multiplies lies in parts, one for each
    \\|m\\|: u_0, and then n above p, so that each part is a matrix. One tap has one part, in the order of the
    map's columns.

    Where signals have the coefficient (0, 0) only, no rotation changes them (``scalars``). The map then
    needs no more than that coefficient's columns, and one tap stands for all. Rolled back and averaged,
    coefficients of order m stay as they are if m is a multiple of T, and vanish else.

    Args:
        lmax: largest degree of the messages.
        mmax: M, their largest \\|order\\|.
        num_taps: T.
        scalars: whether signals have the coefficient (0, 0) only.
    """

    mixing: Tensor  # (T, 1 + 2 M), of the sums; see `ocp_scn.ops.reference.gate`
    cos: Tensor  # (T, S), how taps are rolled back; see `ocp_scn.ops.reference.tap_mean`
    sin: Tensor  # (T, S)
    opposite: Tensor  # (S,)
    row: Tensor  # (2, S, 3), where both ends' coefficients lie; see `ocp_scn.ops.reference`
    blocks: Tensor | None  # order in which the map's columns, in 2 S blocks, are taken

    def __init__(self, lmax: int, mmax: int, num_taps: int, *, scalars: bool = False) -> None:
        super().__init__()
        orders = kept_orders(lmax, mmax)
        self.num_kept = len(orders)  # S
        self.input_degree, self.input_order = (0, 0) if scalars else (lmax, mmax)
        angles = 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps
        m = torch.tensor([order for _, order in orders], dtype=torch.float64)
        # sin(m phi) has the sign of m: n cos + p sin for -m, p cos - n sin for +m.
        cos, sin = torch.cos(angles[:, None] * m) / num_taps, torch.sin(angles[:, None] * m) / num_taps
        if scalars:
            cos = cos.sum(0, keepdim=True).round(decimals=12)
            sin = torch.zeros_like(cos)
        # One tap of which nothing vanishes: there is nothing to average, and values can stay where they are.
        self.plain = num_taps == 1 or (scalars and mmax == 0)
        self.register_table("cos", cos)
        self.register_table("sin", sin)
        opposite = torch.tensor([orders.index((degree, -order)) for degree, order in orders])
        self.register_buffer("opposite", opposite, persistent=False)
        self._make_input(len(orders), [abs(order) for _, order in orders], angles, scalars=scalars)

    def _make_input(self, kept: int, orders: Sequence[int], angles: Tensor, *, scalars: bool) -> None:
        """Decide where coefficients lie, and what is mixed."""
        mixing = torch.ones(len(angles), 1, dtype=torch.float64)
        self.sizes = [2 * kept]  # columns, in blocks, of each of the map's matrices
        self.part_of = [0]  # which part each of them multiplies
        blocks = None
        if scalars:
            mixing, self.sizes, blocks = mixing[:1], [2], torch.tensor([0, kept])
            row = torch.tensor([[[0, 2, 0]], [[0, 2, 1]]])
        elif len(angles) == 1:
            which = torch.arange(2 * kept)
            row = torch.stack([torch.zeros_like(which), torch.full_like(which, 2 * kept), which], 1)
        else:
            row, blocks = self._by_order(kept, orders)
            for m in range(1, max(orders) + 1):
                of_m = m * angles
                mixing = torch.cat([mixing, torch.stack([of_m.sin(), of_m.cos()], dim=1)], dim=1)
        self.register_table("mixing", mixing)
        self.register_buffer("blocks", blocks, persistent=False)
        self.register_buffer("row", row.view(2, -1, 3), persistent=False)

    def _by_order(self, kept: int, orders: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the rows (2 S, 3) of coefficients sorted by \\|order\\|, and the map's columns so sorted."""
        row, blocks = torch.zeros(2, kept, 3, dtype=torch.long), []
        self.sizes, self.part_of, before = [], [], 0
        for m in range(max(orders) + 1):
            of_m = [s for s in range(kept) if orders[s] == m]  # by degree, -m ahead of +m
            signs = [of_m] if m == 0 else [of_m[0::2], of_m[1::2]]
            size, which = 2 * len(of_m), 0
            for coefficients in signs:
                for end in range(2):
                    for s in coefficients:
                        row[end, s] = torch.tensor([before, size, which])
                        blocks.append(end * kept + s)
                        which += 1
            self.sizes += [2 * len(coefficients) for coefficients in signs]
            self.part_of += [m] * len(signs)
            before += size
        return row, torch.tensor(blocks)

    # -------------------------------------------------------------------------------- the last map

    def average(self, values: Tensor, bias: Tensor, *, own: bool) -> Tensor:
        """Activate the last map's values, roll every tap back, and average the taps.

        Args:
            values: (E, T, S C).
            bias: (S C,).
            own: whether nobody else needs the values, so that they may be overwritten.

        Returns:
            (E S, C), one row for each coefficient of an edge.
        """
        if self.plain:
            v = silu_of_own(values, bias) if own else ops.bias_silu(values, bias)
        else:
            v = ops.tap_mean(values, bias, self.cos, self.sin, self.opposite)
        return v.view(len(values) * self.num_kept, len(bias) // self.num_kept)

    def average_vjp(self, gradient: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the derivative by the values from that (E S, C) by `average`."""
        if self.plain:
            return ops.bias_silu_backward(gradient.view_as(values), values, bias)
        gradient = gradient.view(len(values), self.num_kept, gradient.shape[1])
        return ops.tap_mean_backward(gradient, values, bias, self.cos, self.sin, self.opposite)

    # ------------------------------------------------------------------------------- the first map

    @property
    def num_mixed(self) -> int:
        """How many tensors `first_map` returns."""
        return self.part_of[-1] + 1

    def maps(self, weight: Tensor) -> Iterator[Tensor]:
        r"""Yield the map's matrices (columns, out) for the parts, from its weight (out, 2 S C).

        Columns are gathered when they are wanted, those of one \|m\| at once if they are few, so that not all
        need memory at a time.
        """
        if self.blocks is None:
            yield weight.mT
            return
        as_blocks = weight.mT.reshape(2 * self.num_kept, -1)
        most = gathered_at_once(weight.device) // as_blocks.shape[1]
        of_parts = [self.sizes[0], *(2 * size for size in self.sizes[1::2])]
        for p, taken in enumerate(self.blocks.split(of_parts)):
            for some in taken.chunk(2) if p and len(taken) > most else (taken,):
                gathered = embedding(some, as_blocks).view(-1, weight.shape[0])  # faster than an index
                yield from gathered.chunk(2) if p and len(some) == len(taken) else (gathered,)

    def parts(self, v: Tensor) -> list[Tensor]:
        """Return the parts of both ends' coefficients v (E 2 S', C) as the matrices that are multiplied."""
        channels, parts = v.shape[1], v.split(self._rows_of_parts(v.shape[0]))
        widths = [self.sizes[self.part_of.index(p)] * channels for p in range(len(parts))]
        return [part.view(-1, width) for part, width in zip(parts, widths, strict=True)]

    def _rows_of_parts(self, number: int) -> list[int]:
        """Return how many of a number of rows the parts have."""
        sizes = [0] * (self.part_of[-1] + 1)
        for part, size in zip(self.part_of, self.sizes, strict=True):
            sizes[part] += size
        return [number // sum(sizes) * size for size in sizes]

    def first_map(self, v: Tensor, maps: Iterable[Tensor]) -> list[Tensor]:
        """Return what is mixed: A_0 u_0 (E, 1, out), and (E, 2, out) both sums of each m, sin's first."""
        parts = self.parts(v)
        found: list[Tensor] = []
        for p, a in zip(self.part_of, maps, strict=True):
            of_part = product(parts[p], a.mT).unflatten(0, (-1, 1 if p == 0 else 2))
            if p < len(found):  # of A_p, after those of A_n
                of_part[:, 0].sub_(found[p][:, 1])
                of_part[:, 1].add_(found[p][:, 0])
                found[p] = of_part
            else:
                found.append(of_part)
        return found

    def first_map_vjp(
        self, v: Tensor, maps: Iterable[Tensor], gradients: Sequence[Tensor], totals: list[Tensor | None]
    ) -> Tensor:
        """Return the derivative by v from those by `first_map`; add those by the maps to ``totals``.

        Args:
            v: (E 2 S', C) as there.
            maps: as there.
            gradients: like what that returns.
            totals: of each map, (columns, out); None before the first time.
        """
        whole = len(self.part_of) == 1  # of one matrix the product need not be written into another
        of_v = v if whole else torch.empty_like(v)
        parts, of_parts, last = self.parts(v), self.parts(of_v), -1
        for k, (p, a) in enumerate(zip(self.part_of, maps, strict=True)):
            gradient = gradients[p]
            if p > max(last, 0):  # by A_n n and A_n p
                gradient = torch.stack([gradient[:, 1], -gradient[:, 0]], dim=1)
            rows = gradient.flatten(0, 1)
            totals[k] = plus_product(totals[k], parts[p].mT, rows.mT)
            if whole:
                of_v = product(rows, a).view_as(v)
            else:
                product_(of_parts[p], rows, a, add=p == last)
            last = p
        return of_v

    def weight_gradient(self, weight: Tensor, totals: Sequence[Tensor | None]) -> Tensor:
        """Return the derivative by the weight from those by its maps, which lies in memory as it does."""
        of_maps = [total for total in totals if total is not None]
        if self.blocks is None:
            return of_maps[0].mT.to(weight.dtype)
        full = len(self.blocks) == 2 * self.num_kept
        new = weight.new_empty if full else weight.new_zeros
        whole = new(2 * self.num_kept, weight.numel() // (2 * self.num_kept))
        for of_map, taken in zip(of_maps, self.blocks.split(self.sizes), strict=True):
            whole.index_copy_(0, taken, of_map.to(weight.dtype).view(len(taken), -1))
        return whole.view(weight.mT.shape).mT
