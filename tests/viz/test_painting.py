"""Surfaces are where they should be, and what is nearer hides what is behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ocp_scn.sphere import spiral_points
from ocp_scn.viz.painting import paint, view_from
from ocp_scn.viz.signals import values_at
from ocp_scn.viz.solids import (
    COLORS,
    Solid,
    arrow,
    ball,
    disc,
    flat_normals,
    largest_value,
    sphere_mesh,
    spherical_function,
    stick,
)

START, END, RED, BLUE = (
    np.array([1.0, -2.0, 0.5]),
    np.array([0.2, 1.0, 2.5]),
    (0.9, 0.0, 0.0),
    (0.0, 0.0, 0.9),
)
LENGTH = float(np.linalg.norm(END - START))


def volume(solid: Solid) -> float:
    """Return the volume inside, Å³, by the divergence theorem; negative for a surface turned inside out."""
    a, b, c = solid.triangles.swapaxes(0, 1)
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


@pytest.mark.parametrize(
    ("solid", "expected"),
    [
        (ball(START, 0.7, RED), 4 / 3 * np.pi * 0.7**3),
        (stick(START, END, 0.2, RED), np.pi * 0.2**2 * LENGTH),
        (disc(START, END, 2.0, RED), np.pi * 2.0**2 * LENGTH),
        # A shaft, and a cone of radius 2.4 and height 6 times the shaft's radius.
        (arrow(START, END, 0.1, RED), np.pi * (0.1**2 * (LENGTH - 0.6) + 0.24**2 * 0.6 / 3)),
    ],
    ids=["ball", "stick", "disc", "arrow"],
)
def test_solids_are_closed_and_of_their_size(solid: Solid, expected: float) -> None:
    assert volume(solid) == pytest.approx(expected, rel=0.03)
    flat = flat_normals(solid.triangles)
    np.testing.assert_allclose(flat.sum(axis=0), 0, atol=1e-9)  # as of every closed surface
    assert (np.einsum("fi,fi->f", flat, solid.normals) >= 0).all()


def test_a_function_is_drawn_at_its_values() -> None:
    """Every corner is as far from the center as the function is large there, in the colour of its sign."""
    coefficients, center = torch.randn(16, dtype=torch.float64), np.array([1.0, 2.0, -3.0])
    unit = largest_value(coefficients)
    solid = spherical_function(coefficients, center, unit=unit, radius=1.5, num_points=500)
    corners = (solid.triangles - center).reshape(-1, 3)
    distance = np.linalg.norm(corners, axis=1)
    values = values_at(torch.from_numpy(corners / distance[:, None]), coefficients).numpy()
    np.testing.assert_allclose(distance, 1.5 * np.abs(values) / unit, rtol=1e-9)
    assert distance.max() == pytest.approx(1.5, rel=1e-2)
    means = values.reshape(-1, 3).mean(axis=1) / unit
    np.testing.assert_allclose(solid.colors, COLORS(0.5 + 0.5 * means)[:, :3])
    red_over_blue = (solid.colors[:, 0] - solid.colors[:, 2])[np.abs(means) > 0.1]
    assert (np.sign(red_over_blue) == np.sign(means[np.abs(means) > 0.1])).all()
    assert volume(solid) > 0


def test_the_mesh_is_a_sphere() -> None:
    points, faces = sphere_mesh(200)
    np.testing.assert_array_equal(points, spiral_points(200).numpy())
    assert len(faces) == 2 * 200 - 4  # Euler
    assert set(faces.flatten()) == set(range(200))


def test_the_scale_is_the_largest_value_of_all() -> None:
    coefficients = torch.zeros(3, 4, dtype=torch.float64)
    assert largest_value(coefficients) == 1.0
    coefficients[1, 0], coefficients[2, 2] = 0.2, -0.8
    assert largest_value(coefficients) == pytest.approx(0.8 * np.sqrt(3 / (4 * np.pi)), rel=1e-3)


@pytest.mark.parametrize("up", [1, 2])
def test_a_view_is_a_rotation_with_an_axis_up(up: int) -> None:
    view = view_from(35, 20, up)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)
    right, upward, towards = view @ np.eye(3)[up]
    assert (right, upward, towards) == pytest.approx((0, np.cos(np.radians(20)), np.sin(np.radians(20))))
    front = np.eye(3)[(up + 1) % 3]
    np.testing.assert_allclose(view_from(0, 0, up)[2], front, atol=1e-12)


def painted(solids: list[Solid]) -> np.ndarray:
    """Return the pixels (90, 90, 3) of a square of 3 Å, seen along the axis z."""
    figure = Figure(figsize=(1, 1), dpi=90)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    paint(axes, solids, np.eye(3))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("nearer", [RED, BLUE])
def test_the_nearer_one_is_seen(nearer: tuple[float, float, float]) -> None:
    farther = BLUE if nearer == RED else RED
    small, large = ball(np.array([0, 0, 2.0]), 0.5, nearer), ball(np.zeros(3), 1.2, farther)
    for solids in ([small, large], [large, small]):
        pixels = painted(solids)
        red_over_blue = pixels[..., 0] - pixels[..., 2]
        sign = 1 if nearer == RED else -1
        assert sign * red_over_blue[45, 45] > 50 > -50 > sign * red_over_blue[45, 45 + 25]
        assert (pixels[0, 0] == 255).all()


def test_the_light_falls_from_above_on_the_left() -> None:
    brightness = painted([ball(np.zeros(3), 1.2, (0.5, 0.5, 0.5))]).sum(axis=2)
    assert brightness[30, 30] > brightness[45, 45] > brightness[60, 60]


def test_a_function_that_is_zero_does_no_harm() -> None:
    zero = spherical_function(torch.zeros(9).double(), np.zeros(3), unit=1.0, radius=1.0, num_points=100)
    with np.errstate(all="raise"):
        assert (painted([zero, ball(np.array([0, 0, -1.0]), 0.5, RED)])[45, 45] != 255).any()
