"""Edge frames and the rows of Wigner matrices that messages need.

A frame R (3 x 3) rotates an edge's direction to the polar axis, R e = +y. Coefficients are rotated by D(R),
where D(R) Y(v) = Y(R v). Everything here is a rational function of the edge vector without
angles, so derivatives are finite for edges along every axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ocp_scn.sphere.harmonics import harmonics_in_rows, kept_orders, spherical_harmonics
from ocp_scn.sphere.quadrature import spiral_points

# Beyond this value of the polar component the second chart of `edge_frames` is used.
_CHART_BORDER = -0.9
# Frames whose Wigner matrices are computed at once, so that memory is bounded.
_MAX_FRAMES = 2**15


def edge_frames(edge_vec: Tensor, roll: Tensor) -> Tensor:
    """Return rotations that take each edge's direction to the polar axis +y.

    No frame can depend continuously on the direction everywhere on the sphere. This one rotates
    the direction to the pole along the shortest path, in coordinates that a fixed generic rotation
    has rotated. Within 26 degrees of the one direction in which this path is not unique, a half turn
    comes first (a second chart). The frame and its derivatives are bounded everywhere. The frame jumps
    on the cone around that direction, which contains no axis and no face or body diagonal of a cube.

    Args:
        edge_vec: (E, 3) edge vectors of any length > 0.
        roll: (E,) free angle about the polar axis, radians.

    Returns:
        (E, 3, 3) proper rotations R with R edge_vec / |edge_vec| = (0, 1, 0).
    """
    c = _constants(edge_vec.dtype, edge_vec.device)
    direction = edge_vec / edge_vec.norm(dim=-1, keepdim=True)
    # Autocast would round the directions of edges to three digits, and whatever frames turn.
    with torch.autocast(edge_vec.device.type, enabled=False):
        turned = direction @ c.generic.T
        flip = torch.where(turned[:, 1:2] > _CHART_BORDER, c.no_turn, c.half_turn)  # (E, 3)
        shortest = _shortest_to_pole(turned * flip)
        return polar_rotation(roll) @ (shortest * flip[:, None]) @ c.generic


def random_rolls(
    number: int, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Return angles (E,) drawn uniformly from [0, 2 pi) by ``generator`` (torch's own if None)."""
    return 2 * math.pi * torch.rand(number, dtype=dtype, device=device, generator=generator)


def polar_rotation(angle: Tensor) -> Tensor:
    """Return rotations about +y: (x, y, z) -> (x cos a - z sin a, y, x sin a + z cos a).

    Args:
        angle: (...,) radians.

    Returns:
        (..., 3, 3) matrices.
    """
    c, angle = _constants(angle.dtype, angle.device), angle[..., None, None]
    return torch.addcmul(torch.addcmul(c.along, angle.cos(), c.across), angle.sin(), c.around)


def wigner_rows(frames: Tensor, lmax: int, mmax: int) -> list[Tensor]:
    """Return the rows |m| <= ``mmax`` of the Wigner matrices D_l(R), one block for each degree.

    Args:
        frames: (E, 3, 3) proper rotations.
        lmax: largest degree, inclusive.
        mmax: largest kept |order|, inclusive.

    Returns:
        lmax + 1 tensors; that of degree l has the shape (E, 2 min(l, mmax) + 1, 2 l + 1).
    """
    shapes = [(2 * min(degree, mmax) + 1, 2 * degree + 1) for degree in range(lmax + 1)]
    blocks = packed_wigner(frames, lmax, mmax).split([rows * columns for rows, columns in shapes], dim=1)
    return [block.unflatten(1, shape) for block, shape in zip(blocks, shapes, strict=True)]


def packed_wigner(frames: Tensor, lmax: int, mmax: int) -> Tensor:
    """Return the numbers (E, B) of `wigner_rows`, block after block.

    D_l(R) maps Y_l(p) to Y_l(R p) for every point p. With a few fixed points P, spread well over
    the sphere, D_l(R) = Y_l(R P)^T pinv(Y_l(P))^T: a polynomial in the entries of R.
    """
    points, inverse, places = _fit_points(lmax, mmax, frames.dtype, frames.device)
    with torch.autocast(frames.device.type, enabled=False):  # the dtype of all sums over edges is that of D
        parts = [_fit(part, points, inverse, places, lmax, mmax) for part in frames.split(_MAX_FRAMES)]
    return torch.cat(parts)


def _fit(frames: Tensor, points: Tensor, inverse: Tensor, places: Tensor, lmax: int, mmax: int) -> Tensor:
    x, y, z = (frames @ points.mT).unbind(1)  # (E, P) each
    values = harmonics_in_rows(x, y, z, lmax, mmax)  # (E, S, P)
    products = values @ inverse  # (E, S, K), of which the blocks on the diagonal are wanted
    return products.flatten(1).index_select(1, places)


def dense_rows(rows: Sequence[Tensor]) -> Tensor:
    """Return the blocks of `wigner_rows` as one block-diagonal matrix (E, S, (L + 1)**2)."""
    size = len(rows) ** 2
    padded = [pad(block, (degree**2, size - (degree + 1) ** 2)) for degree, block in enumerate(rows)]
    return torch.cat(padded, dim=1)


def _shortest_to_pole(direction: Tensor) -> Tensor:
    """Return the rotations (E, 3, 3) about the normal of (direction, +y) that end at +y.

    With n = direction and p = +y, R = I + 2 p n^T - (n + p)(n + p)^T / (1 + n . p): two reflections, the
    first of which takes n to -n. Needs direction[..., 1] > -1.
    """
    c = _constants(direction.dtype, direction.device)
    half = direction + c.pole  # (E, 3), whose component along the pole is 1 + n . p
    rotation = torch.addcmul(c.identity, c.pole[:, None], direction[:, None], value=2)
    return torch.addcmul(rotation, half[:, :, None], (half / half[:, 1:2])[:, None], value=-1)


class _Constants(NamedTuple):
    """What frames are made of.

    Attributes:
        generic: (3, 3) fixed rotation that keeps the jump of `edge_frames` off axes and diagonals.
        no_turn: (3,) factors of x, y, z in no turn,
        half_turn: (3,) and in a half turn about x.
        pole: (3,) the polar axis.
        identity: (3, 3).
        along: (3, 3) the part of a rotation about the pole that does not depend on its angle,
        across: (3, 3) that with the angle's cosine,
        around: (3, 3) and that with its sine.
    """

    generic: Tensor
    no_turn: Tensor
    half_turn: Tensor
    pole: Tensor
    identity: Tensor
    along: Tensor
    across: Tensor
    around: Tensor


@lru_cache(maxsize=16)
def _constants(dtype: torch.dtype, device: torch.device) -> _Constants:
    # The rotation of the quaternion (1, sqrt 2, sqrt 3, sqrt 5), whose parts have no rational ratio.
    with torch.inference_mode(False):
        w, x, y, z = (torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64) / 11).sqrt().tolist()
        generic = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        tables = {
            "generic": generic,
            "no_turn": [1, 1, 1],
            "half_turn": [1, -1, -1],
            "pole": [0, 1, 0],
            "identity": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            "along": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
            "across": [[1, 0, 0], [0, 0, 0], [0, 0, 1]],
            "around": [[0, 0, -1], [0, 0, 0], [1, 0, 0]],
        }
        made = {name: torch.tensor(table, dtype=torch.float64) for name, table in tables.items()}
        return _Constants(**{name: table.to(device=device, dtype=dtype) for name, table in made.items()})


@lru_cache(maxsize=64)
def _fit_points(
    lmax: int, mmax: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fit points (P, 3), all pinv(Y_l(P))^T side by side (P, K), and where blocks lie (B,)."""
    # 40 points give condition numbers up to 4.1 for l <= 10; 20 points the same for l <= 6.
    with torch.inference_mode(False):
        points, size = spiral_points(20 if lmax <= 6 else 40), (lmax + 1) ** 2
        values = spherical_harmonics(points, lmax)
        ranges = [slice(degree**2, (degree + 1) ** 2) for degree in range(lmax + 1)]
        inverse = torch.cat([torch.linalg.pinv(values[:, r]).T for r in ranges], dim=1)
        degrees = [degree for degree, _ in kept_orders(lmax, mmax)]
        places = [s * size + k for s, degree in enumerate(degrees) for k in range(size)[ranges[degree]]]
        return points.to(device, dtype), inverse.to(device, dtype), torch.tensor(places, device=device)
