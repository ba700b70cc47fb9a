"""Rotations between atoms and edge frames by kernels, and their derivatives.

Turning atoms' signals into edge frames and turning edges' rows back and summing them at atoms are linear and
each other's transpose, so each is the derivative of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocp_scn import kernels
from ocp_scn.kernels import Layout, Rotations


class Incidence(NamedTuple):
    """Which atom each of some edges has at one end, in both directions.

    Attributes:
        atoms: (E',) the atom of each edge, among A'.
        edges: (E',) the edges atom by atom.
        starts: (A' + 1,) where those of each atom begin in ``edges``, and E'.
        rotations: from the global frame to those of the edges.
        layout: where the coefficients lie.
    """

    atoms: Tensor
    edges: Tensor
    starts: Tensor
    rotations: Rotations
    layout: Layout


def incidence(atoms: Tensor, num_atoms: int, rotations: Rotations, layout: Layout) -> Incidence:
    """Return the edges' incidence from the atom (E',) of each, in any order.

    Raises:
        ValueError: an atom is below 0 or no less than ``num_atoms``; a kernel would read other memory.
    """
    if len(atoms):
        least, most = (int(value) for value in torch.aminmax(atoms))
        if least < 0 or most >= num_atoms:
            raise ValueError(f"edges have atoms from {least} to {most}; expected 0 to {num_atoms - 1}")
    edges = torch.argsort(atoms, stable=True)
    starts = torch.searchsorted(atoms[edges], torch.arange(num_atoms + 1))
    return Incidence(atoms, edges, starts, rotations, layout)


def to_edge_frames(x: Tensor, ends: Sequence[Incidence]) -> tuple[Tensor, ...]:
    """Turn the signals at one or both ends into the frames of the edges.

    Args:
        x: (A', K', C) float32; coefficients beyond those of the rotations do not count.
        ends: whose layouts have the same parts and fill them together.

    Returns:
        Tensors (E', rows, C), one for each part of the layouts; in bfloat16 where products will be.
    """
    dtype = torch.bfloat16 if _mixed() else torch.float32
    if torch.is_grad_enabled() and x.requires_grad:
        return _ToEdgeFrames.apply(ends, dtype, x)
    return _turn(x, ends, dtype)


def sum_at_atoms(
    parts: Sequence[Tensor], ends: Sequence[Incidence], num_atoms: int, num_coefficients: int
) -> Tensor:
    """Turn edges' coefficients back into the global frame and sum them at atoms.

    Args:
        parts: (E', rows, C) each, float32 or bfloat16.
        ends: over which to sum.
        num_atoms: A'.
        num_coefficients: K', no fewer than the rotations have.

    Returns:
        (A', K', C) float32, zero beyond the coefficients of the rotations.
    """
    if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
        return _SumAtAtoms.apply(ends, num_atoms, num_coefficients, *parts)
    return _sum_back(parts, ends, num_atoms, num_coefficients)


class _ToEdgeFrames(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ends: Sequence[Incidence], dtype: torch.dtype, x: Tensor) -> tuple[Tensor, ...]:
        ctx.ends, ctx.shape = ends, x.shape
        return _turn(x, ends, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        num_atoms, num_coefficients, _ = ctx.shape
        return None, None, sum_at_atoms(gradients, ctx.ends, num_atoms, num_coefficients)


class _SumAtAtoms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ends: Sequence[Incidence], num_atoms: int, num_coefficients: int, *parts: Tensor
    ) -> Tensor:
        ctx.ends = ends
        return _sum_back(parts, ends, num_atoms, num_coefficients)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *to_edge_frames(gradient, ctx.ends)


def _turn(x: Tensor, ends: Sequence[Incidence], dtype: torch.dtype) -> tuple[Tensor, ...]:
    x = _with_channels_together(x)
    num_edges, channels = len(ends[0].atoms), x.shape[-1]
    parts = [x.new_empty(num_edges, size, channels, dtype=dtype) for size in ends[0].layout.sizes]
    for end in ends:
        kernels.turn(x, end.atoms, end.rotations, parts, end.layout)
    return tuple(parts)


def _sum_back(
    parts: Sequence[Tensor], ends: Sequence[Incidence], num_atoms: int, num_coefficients: int
) -> Tensor:
    parts = [part.contiguous() for part in parts]
    full = (ends[0].rotations.lmax + 1) ** 2 == num_coefficients
    new = torch.empty if full else torch.zeros
    sums = new(num_atoms, num_coefficients, parts[0].shape[-1], dtype=torch.float32)
    for n, end in enumerate(ends):
        kernels.sum_back(sums, end.edges, end.starts, end.rotations, parts, end.layout, add=n > 0)
    return sums


def _with_channels_together(x: Tensor) -> Tensor:
    _, size, channels = x.shape
    return x if x.stride()[1:] == (channels, 1) or size * channels == 0 else x.contiguous()


def _mixed() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
