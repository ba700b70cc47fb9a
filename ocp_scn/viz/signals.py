"""What the pictures show: the spherical channels between layers, and those of an edge in its frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ocp_scn.graph import Graph
from ocp_scn.model import SCN
from ocp_scn.sphere import dense_rows, kept_orders, polar_rotation, spherical_harmonics, wigner_rows


def layer_signals(network: SCN, elements: Tensor, graph: Graph, frames: Tensor) -> list[Tensor]:
    """Return the signals of one system ahead of the first layer and after each.

    Args:
        network: in evaluation mode.
        elements: (A,) atomic numbers.
        graph: the edges.
        frames: (E, 3, 3) edge frames.

    Returns:
        The K + 1 tensors x_0 to x_K, (A, (L + 1)**2, C) each.
    """
    calls: list[tuple[Tensor, Tensor]] = []  # what goes into each layer, and its update

    def note(_: nn.Module, inputs: tuple[Any, ...], update: Tensor) -> None:
        calls.append((inputs[0], update.to(inputs[0].dtype)))

    with torch.no_grad(), ExitStack() as hooks:
        for block in network.edge_blocks:
            hooks.callback(block.register_forward_hook(note).remove)
        network(elements, graph, frames, torch.zeros_like(elements), 1)
    inputs = [x for x, _ in calls]
    embedding, (last, update) = inputs[0], calls[-1]
    first = pad(embedding, (0, 0, 0, update.shape[1] - embedding.shape[1]))  # it has degree 0 only
    return [first, *inputs[1:], update if len(calls) == 1 else last + update]


def values_at(points: Tensor, coefficients: Tensor) -> Tensor:
    """Return the values (..., P) of functions (..., (L + 1)**2) at unit vectors (P, 3)."""
    return coefficients @ spherical_harmonics(points, _lmax(coefficients)).mT


def most_directed(signals: Sequence[Tensor]) -> int:
    """Return the channel that depends most on the direction, by the mean share of its degrees above 0.

    Args:
        signals: (A, (L + 1)**2, C) each.
    """
    power = torch.stack([x.square().sum(0) for x in signals])  # (signals, (L + 1)**2, C)
    whole = power.sum(1).clamp(min=torch.finfo(power.dtype).tiny)
    return int((power[:, 1:].sum(1) / whole).mean(0).argmax())


class EdgeFunctions(NamedTuple):
    """Functions of an edge's two ends, the source first, on the way to its message.

    Attributes:
        in_structure: (2, (L + 1)**2) their coefficients.
        turned: (2, (L + 1)**2) those in the edge's frame.
        kept: (2, (L + 1)**2) those that the message keeps, with 0 in place of the others.
        taps: (T, 2, (L + 1)**2) those rolled by each tap.
    """

    in_structure: Tensor
    turned: Tensor
    kept: Tensor
    taps: Tensor


def edge_functions(
    coefficients: Tensor, frame: Tensor, *, degree: int, mmax: int, num_taps: int
) -> EdgeFunctions:
    """Return what becomes of both ends' functions before the message's network.

    Args:
        coefficients: (2, (L + 1)**2) of source and target.
        frame: (3, 3) the edge's.
        degree: largest degree of the message.
        mmax: its largest order.
        num_taps: T.
    """
    lmax = _lmax(coefficients)
    turned = coefficients @ rotations_of_coefficients(frame[None], lmax)[0].mT
    mask = [l_ <= degree and abs(m) <= mmax for l_, m in kept_orders(lmax, lmax)]
    kept = turned * torch.tensor(mask)
    rolls = polar_rotation(tap_angles(num_taps).to(turned.dtype))
    return EdgeFunctions(coefficients, turned, kept, kept @ rotations_of_coefficients(rolls, lmax).mT)


def tap_angles(num_taps: int) -> Tensor:
    """Return the rolls (T,) of the taps, radians."""
    return 2 * math.pi * torch.arange(num_taps, dtype=torch.float64) / num_taps


def rotations_of_coefficients(rotations: Tensor, lmax: int) -> Tensor:
    """Return D (N, (L + 1)**2, (L + 1)**2) of rotations R (N, 3, 3): D Y(v) = Y(R v)."""
    return dense_rows(wigner_rows(rotations, lmax, lmax))


def _lmax(coefficients: Tensor) -> int:
    return math.isqrt(coefficients.shape[-1]) - 1
