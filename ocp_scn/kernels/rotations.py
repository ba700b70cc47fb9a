"""Rotations between atoms and edge frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ocp_scn.kernels.library import call
from ocp_scn.kernels.tensors import Layout, addressed, check


class Rotations(NamedTuple):
    """The kept rows of edges' Wigner matrices, without the zeros around their blocks.

    Attributes:
        blocks: (E, B) numbers, degree by degree (2 min(l, mmax) + 1) x (2 l + 1); float32, contiguous.
        lmax: largest degree.
        mmax: largest kept \\|order\\|.
    """

    blocks: Tensor
    lmax: int
    mmax: int

    def of_scalars(self) -> Rotations:
        """Return the same for degree 0, which they leave as it is."""
        return Rotations(self.blocks[:, :1].contiguous(), 0, self.mmax)


@torch.compiler.disable
def turn(x: Tensor, atoms: Tensor, rotations: Rotations, parts: Sequence[Tensor], layout: Layout) -> None:
    """Turn signals of atoms into edge frames: row s of edge e becomes sum_k D_e[s, k] x[atoms[e], k].

    Args:
        x: (A, K', C) float32 signals; coefficients beyond (lmax + 1)**2 do not count.
        atoms: (E,) index of each edge's atom, from 0 to A - 1, which is not checked.
        rotations: D.
        parts: where to put the rows, (E, rows, C) each, contiguous, float32 or bfloat16.
        layout: of the parts.
    """
    _, _, channels = _check_signal(x, rotations)
    check(atoms, (rotations.blocks.shape[0],), torch.int64)
    kind, *places = addressed(parts, layout, atoms.shape[0], channels)
    signal = x.data_ptr(), x.stride(0), channels, atoms.data_ptr()
    call("turn", kind, *signal, *_rows(rotations), *places, atoms.shape[0], torch.get_num_threads())


@torch.compiler.disable
def sum_back(
    x: Tensor,
    edges: Tensor,
    starts: Tensor,
    rotations: Rotations,
    parts: Sequence[Tensor],
    layout: Layout,
    *,
    add: bool,
) -> None:
    """Turn edges' rows back and sum them at atoms: x[a, k] becomes sum_(e, s) D_e[s, k] (row s of e).

    It is the transpose of :func:`turn`.

    Args:
        x: (A, K', C) float32, where to put the sums; coefficients beyond (lmax + 1)**2 stay as they are.
        edges: (E,) the edges atom by atom, which is not checked.
        starts: (A + 1,) where those of each atom begin in ``edges``, and E.
        rotations: D.
        parts: the rows, (E, rows, C) each, contiguous, float32 or bfloat16; a row is what lies in both
            places together.
        layout: of the parts.
        add: whether to add to what is in ``x``.
    """
    num_atoms, _, channels = _check_signal(x, rotations)
    check(edges, (rotations.blocks.shape[0],), torch.int64)
    check(starts, (num_atoms + 1,), torch.int64)
    kind, *places = addressed(parts, layout, edges.shape[0], channels)
    signal = x.data_ptr(), x.stride(0), channels, edges.data_ptr(), starts.data_ptr()
    last = int(add), num_atoms, torch.get_num_threads()
    call("sum", kind, *signal, *_rows(rotations), *places, *last)


def _check_signal(x: Tensor, rotations: Rotations) -> torch.Size:
    size = (rotations.lmax + 1) ** 2
    if x.dim() != 3 or x.shape[1] < size or x.dtype != torch.float32 or x.stride()[1:] != (x.shape[2], 1):
        got = f"{tuple(x.shape)} {x.dtype} with strides {x.stride()}"
        raise ValueError(f"signals are {got}; expected (A, {size} or more, C) torch.float32")
    return x.shape


def _rows(rotations: Rotations) -> tuple[int, ...]:
    blocks, lmax, mmax = rotations
    size = _size_of_blocks(lmax, mmax)
    check(blocks, (blocks.shape[0], size), torch.float32)
    return blocks.data_ptr(), size, lmax, mmax


@cache
def _size_of_blocks(lmax: int, mmax: int) -> int:
    return sum((2 * min(degree, mmax) + 1) * (2 * degree + 1) for degree in range(lmax + 1))
