"""Solids: closed surfaces of coloured triangles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from scipy.spatial import ConvexHull
from torch import Tensor

from ocp_scn.sphere import spiral_points
from ocp_scn.viz.signals import values_at

# Of values from -1 to 1. Its middle is grey, so that small lobes are seen on white.
COLORS = LinearSegmentedColormap.from_list(
    "values", ["#0b3c8c", "#3f83c9", "#a9c8e4", "#e9e9ea", "#f3b89c", "#d9583b", "#8f0f1f"]
)
Color = tuple[float, float, float]
_CORNERS = 24  # of what is round about an axis


class Solid(NamedTuple):
    """A closed surface.

    Attributes:
        triangles: (F, 3, 3) their corners, Å, counterclockwise seen from outside.
        colors: (F, 3) red, green, blue, from 0 to 1.
        normals: (F, 3) of the smooth surface that the triangles stand for, outward, of any length.
    """

    triangles: np.ndarray
    colors: np.ndarray
    normals: np.ndarray


@lru_cache(maxsize=8)
def sphere_mesh(num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (P, 3) of the unit sphere and the triangles (F, 3) between them, by index."""
    points = spiral_points(num_points).numpy()
    faces = ConvexHull(points).simplices
    a, b, c = points[faces].swapaxes(0, 1)
    inside_out = np.einsum("fi,fi->f", np.cross(b - a, c - a), a) < 0
    faces[inside_out] = faces[inside_out, ::-1]
    return points, faces


def largest_value(coefficients: Tensor) -> float:
    """Return the largest absolute value of functions (..., (L + 1)**2); 1 where they are 0 everywhere."""
    points = torch.from_numpy(sphere_mesh(2500)[0])
    return float(values_at(points, coefficients).abs().max()) or 1.0


def spherical_function(
    coefficients: Tensor, center: np.ndarray, *, unit: float, radius: float, num_points: int
) -> Solid:
    """Return the surface at the distance radius abs(f(n)) / unit from a center, in the colour of f(n) / unit.

    Args:
        coefficients: ((L + 1)**2,) of f, float64.
        center: (3,) Å.
        unit: the value that has the last colour.
        radius: the distance there, Å.
        num_points: directions n.
    """
    points, faces = sphere_mesh(num_points)
    shares = values_at(torch.from_numpy(points), coefficients).numpy() / unit
    corners = center + radius * np.abs(shares)[:, None] * points
    colors = COLORS(0.5 + 0.5 * shares[faces].mean(axis=1))[:, :3]
    return Solid(corners[faces], colors, _smooth_normals(corners, faces))


def ball(center: np.ndarray, radius: float, color: Color) -> Solid:
    """Return a sphere."""
    points, faces = sphere_mesh(400)
    colors = np.tile(color, (len(faces), 1))
    return Solid((center + radius * points)[faces], colors, points[faces].mean(axis=1))


def stick(start: np.ndarray, end: np.ndarray, radius: float, color: Color) -> Solid:
    """Return a cylinder."""
    return _turned(start, end, [(0, 0), *_shaft(1, radius, 8), (1, 0)], color)


def arrow(start: np.ndarray, end: np.ndarray, radius: float, color: Color) -> Solid:
    """Return an arrow whose shaft has a radius."""
    neck = max(0.0, 1 - 6 * radius / float(np.linalg.norm(end - start)))
    return _turned(start, end, [(0, 0), *_shaft(neck, radius, 24), (neck, 2.4 * radius), (1, 0)], color)


def disc(start: np.ndarray, end: np.ndarray, radius: float, color: Color) -> Solid:
    """Return a disc with the thickness from start to end."""
    return _turned(start, end, [(0, 0), (0, radius), (1, radius), (1, 0)], color)


def _shaft(length: float, radius: float, pieces: int) -> list[tuple[float, float]]:
    # Short ones, since triangles are sorted by the depth of their middle.
    return [(length * share, radius) for share in np.linspace(0, 1, pieces + 1)]


def _turned(
    start: np.ndarray, end: np.ndarray, profile: Sequence[tuple[float, float]], color: Color
) -> Solid:
    """Return what a profile of (share of the way from start to end, radius in Å) makes about that axis."""
    axis = end - start
    along = axis / np.linalg.norm(axis)
    across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    across /= np.linalg.norm(across)
    angles = np.linspace(0, 2 * np.pi, _CORNERS + 1)[:, None]
    circle = np.cos(angles) * across + np.sin(angles) * np.cross(along, across)
    shares, radii = np.array(profile).T[:, :, None, None]
    rings = start + shares * axis + radii * circle  # (places, angles, 3)
    a, b, c, d = rings[:-1, :-1], rings[:-1, 1:], rings[1:, 1:], rings[1:, :-1]
    halves = [np.stack(corners, axis=2).reshape(-1, 3, 3) for corners in ((a, b, c), (a, c, d))]
    triangles = np.concatenate(halves)
    return Solid(triangles, np.tile(color, (len(triangles), 1)), flat_normals(triangles))


def flat_normals(triangles: np.ndarray) -> np.ndarray:
    """Return the normals (F, 3) of triangles (F, 3, 3), with twice their area as length."""
    a, b, c = triangles.swapaxes(0, 1)
    return np.cross(b - a, c - a)


def _smooth_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return normals (F, 3) of which neighbours differ little: means over all triangles at the corners."""
    flat, of_points = flat_normals(points[faces]), np.zeros_like(points)
    for corner in faces.T:
        np.add.at(of_points, corner, flat)
    return of_points[faces].sum(axis=1)
