"""Solids on paper: parallel projection, light, and what is nearer to the viewer over what is behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from ocp_scn.viz.solids import Solid, flat_normals

# In view coordinates: to the right, up, towards the viewer.
_LIGHT = np.array([-0.42, 0.58, 0.70])
_AMBIENT, _DIFFUSE, _GLOSS, _SHARPNESS = 0.46, 0.60, 0.22, 24
_HAZE, _MOST_HAZE = 0.035, 0.4  # share of a colour that an Å of depth takes, and the most


def view_from(azimuth: float, elevation: float, up: int) -> np.ndarray:
    """Return the rotation (3, 3) into view coordinates: to the right, up, towards the viewer.

    Args:
        azimuth: of the viewer about the upward axis, degrees; from +z to +x about y, from +x to +y about z.
        elevation: of the viewer above the plane of the other two axes, degrees.
        up: the upward axis, 1 for y or 2 for z.
    """
    a, e = np.radians([azimuth, elevation])
    order = [(up + 1) % 3, (up + 2) % 3, up]
    towards, upward = np.zeros((2, 3))
    towards[order] = np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)
    upward[order] = -np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)
    return np.stack([np.cross(upward, towards), upward, towards])


def paint(axes: Axes, solids: Sequence[Solid], view: np.ndarray) -> None:
    """Paint solids on axes with the unit Å, in the view coordinates of the rotation ``view`` (3, 3)."""
    triangles = np.concatenate([solid.triangles for solid in solids]) @ view.T
    normals = np.concatenate([solid.normals for solid in solids]) @ view.T
    colors = np.concatenate([solid.colors for solid in solids])
    front = flat_normals(triangles)[:, 2] > 0
    triangles, colors, normals = triangles[front], colors[front], normals[front]
    depth = triangles[:, :, 2].mean(axis=1)
    colors = _hazed(_lit(colors, normals), depth)
    order = np.argsort(depth)
    axes.add_collection(
        # With smooth borders, the triangles of a surface would show what is behind it between them.
        PolyCollection(
            triangles[order, :, :2], facecolors=colors[order], linewidths=0, antialiased=False, clip_on=False
        )
    )
    axes.axis("off")


def _lit(colors: np.ndarray, normals: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.maximum(length, np.finfo(float).tiny)  # of a function that is 0, there are none
    light = _LIGHT / np.linalg.norm(_LIGHT)
    half = light + np.array([0, 0, 1])  # between the light and the viewer, J. F. Blinn, SIGGRAPH 1977
    half /= np.linalg.norm(half)
    diffuse = _AMBIENT + _DIFFUSE * np.clip(normals @ light, 0, None)
    gloss = _GLOSS * np.clip(normals @ half, 0, None) ** _SHARPNESS
    return np.clip(colors * diffuse[:, None] + gloss[:, None], 0, 1)


def _hazed(colors: np.ndarray, depth: np.ndarray) -> np.ndarray:
    haze = np.minimum(_MOST_HAZE, _HAZE * (depth.max(initial=0) - depth))
    return colors + haze[:, None] * (1 - colors)
