"""The picture: a channel on the atoms layer by layer, and an edge in its frame with the taps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.formula import Formula
from ase.neighborlist import natural_cutoffs, neighbor_list
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from ocp_scn.viz.page import CAPTION, HEADING, WIDTH, Page
from ocp_scn.viz.painting import paint, view_from
from ocp_scn.viz.signals import EdgeFunctions, tap_angles
from ocp_scn.viz.solids import (
    COLORS,
    Color,
    Solid,
    arrow,
    ball,
    disc,
    largest_value,
    spherical_function,
    stick,
)

_VIEW, _EDGE_VIEW = view_from(-68, 22, up=2), view_from(28, 16, up=1)
_GREY: Color = (0.78, 0.78, 0.77)
_AXES: dict[str, Color] = {"x": (0.10, 0.55, 0.40), "y": (0.20, 0.20, 0.20), "z": (0.45, 0.28, 0.62)}
_RADIUS = 1.25  # of the largest value on atoms, Å
_BAR = 0.75  # inches that the colour bar takes
_EDGE_HEIGHT, _EDGE_WIDTHS = 2.2, (2.15, 1.4, 1.4, 3.35)  # inches
_MOST_TAPS = 4  # that are drawn


@dataclass(frozen=True)
class Edge:
    """An edge and what its message reads.

    Attributes:
        source: index of the sending atom.
        target: index of the receiving atom.
        vec: (3,) from the target to the source, Å.
        frame: (3, 3) its frame.
        layer: number of the layer of the message, from 1.
        degree: largest degree of the message.
        mmax: its largest order.
        functions: of both ends.
    """

    source: int
    target: int
    vec: np.ndarray
    frame: np.ndarray
    layer: int
    degree: int
    mmax: int
    functions: EdgeFunctions


def draw(atoms: Atoms, drawn: Sequence[int], signals: Mapping[int, Tensor], edge: Edge | None) -> Page:
    """Return a page with both rows, or with the first one if there is no edge.

    Args:
        atoms: the structure.
        drawn: atoms whose functions are drawn; the others are balls.
        signals: (A, (L + 1)**2) of one channel, by the number of layers that they have passed; float64.
        edge: of the structure.
    """
    flat = atoms.positions @ _VIEW[:2].T
    around = np.full((len(atoms), 1), 0.4)
    around[list(drawn)] = 0.9 * _RADIUS
    low, high = (flat - around).min(axis=0), (flat + around).max(axis=0)
    width = (WIDTH - _BAR) / len(signals)
    height = float(np.clip(width * (high - low)[1] / (high - low)[0], 1.2, 4))
    first, second = HEADING + height + CAPTION, HEADING + _EDGE_HEIGHT + CAPTION
    page = Page(first + 0.1 + (0 if edge is None else second))

    page.heading(0, "a", f"One spherical channel of {_formula(atoms)}, layer by layer")
    for k, (layer, functions) in enumerate(signals.items()):
        axes = page.axes(k * width, HEADING, width, height)
        page.show(axes, low, high)
        unit = largest_value(functions[list(drawn)])
        paint(axes, _on_atoms(atoms, drawn, functions, unit), _VIEW)
        name = "embedding" if layer == 0 else f"after layer {layer}"
        page.caption(axes, rf"$x^{{({layer})}}$  {name}", rf"largest $|f|$ = {unit:.2g}")
    _draw_bar(page.axes(WIDTH - 0.62, HEADING + 0.05, 0.11, height - 0.05))
    if edge is not None:
        _draw_edge(page, first + 0.1, atoms, edge)
    return page


def _formula(atoms: Atoms) -> str:
    return str(Formula(atoms.get_chemical_formula("metal")).format("latex"))


def _draw_bar(axes: Axes) -> None:
    bar = axes.figure.colorbar(ScalarMappable(Normalize(-1, 1), COLORS), cax=axes, ticks=[-1, 0, 1])
    bar.ax.tick_params(labelsize=7.5, length=2, pad=2)
    axes.spines["outline"].set_visible(False)
    bar.set_label(r"$f\,/\,$largest $|f|$", fontsize=8, labelpad=1)


def _on_atoms(atoms: Atoms, drawn: Sequence[int], functions: Tensor, unit: float) -> list[Solid]:
    points = int(np.clip(40_000 / len(drawn), 300, 2500))  # as many as a panel's size can show
    surfaces = [
        spherical_function(functions[a], atoms.positions[a], unit=unit, radius=_RADIUS, num_points=points)
        for a in drawn
    ]
    return [*_structure(atoms, drawn), *surfaces]


def _structure(atoms: Atoms, drawn: Collection[int] = ()) -> Iterator[Solid]:
    """Yield bonds, and balls in the places of atoms, small ones where functions are drawn."""
    here = Atoms(atoms.numbers, atoms.positions)  # without bonds across the border of the cell
    for i, j in zip(*neighbor_list("ij", here, natural_cutoffs(here, mult=1.15)), strict=True):
        if i < j:
            yield stick(atoms.positions[i], atoms.positions[j], 0.035, _GREY)
    for a, position in enumerate(atoms.positions):
        yield ball(position, 0.12 if a in drawn else 0.3, _GREY)


def _draw_edge(page: Page, top: float, atoms: Atoms, edge: Edge) -> None:
    symbols = [atoms.symbols[a] for a in (edge.source, edge.target)]
    page.heading(top, "b", f"What layer {edge.layer}'s message from {symbols[0]} to {symbols[1]} reads")
    lefts = np.cumsum([0, *_EDGE_WIDTHS[:-1]])
    panels = [
        page.axes(left, top + HEADING, width, _EDGE_HEIGHT)
        for left, width in zip(lefts, _EDGE_WIDTHS, strict=True)
    ]
    _draw_in_structure(page, panels[0], atoms, edge)
    _draw_in_frame(page, panels[1], edge, edge.functions.turned)
    length = float(np.linalg.norm(edge.vec))
    for symbol, place in zip(symbols, _upright(length), strict=True):
        panels[1].text(-0.7 * length, place[1], symbol, fontsize=8.5, ha="center", va="center")
    page.caption(panels[1], "$D(R)\\,x$", "turned into the frame")
    _draw_in_frame(page, panels[2], edge, edge.functions.kept)
    lmax = int(np.sqrt(edge.functions.kept.shape[1])) - 1
    degrees = rf"l \leq {edge.degree}, " if edge.degree < lmax else ""
    page.caption(panels[2], rf"${degrees}|m| \leq {edge.mmax}$", "what the message keeps")
    _draw_taps(page, panels[3], edge)


def _draw_in_structure(page: Page, axes: Axes, atoms: Atoms, edge: Edge) -> None:
    length = float(np.linalg.norm(edge.vec))
    ends = atoms.positions[edge.target] + np.stack([edge.vec, np.zeros(3)])
    middle = ends.mean(axis=0)
    near = np.flatnonzero(np.linalg.norm(atoms.positions - middle, axis=1) < 1.35 * length)
    at_ends = np.flatnonzero(np.isin(near, [edge.source, edge.target]))
    solids = [*_structure(atoms[near], at_ends), *_pair(edge, edge.functions.in_structure, ends)]
    paint(axes, [*solids, *_axes_of_frame(axes, _VIEW, middle, edge.frame, length)], _VIEW)
    _show_height(page, axes, _VIEW[:2] @ middle, 2.5 * length)
    page.caption(axes, "in the structure", "edge, and the axes of its frame $R$")


def _draw_in_frame(page: Page, axes: Axes, edge: Edge, functions: Tensor) -> None:
    length = float(np.linalg.norm(edge.vec))
    solids = _pair(edge, functions, _upright(length))
    solids += _axes_of_frame(axes, _EDGE_VIEW, np.zeros(3), np.eye(3), length)
    paint(axes, solids, _EDGE_VIEW)
    _show_height(page, axes, np.zeros(2), 2.5 * length)


def _draw_taps(page: Page, axes: Axes, edge: Edge) -> None:
    length, taps = float(np.linalg.norm(edge.vec)), edge.functions.taps
    shown, step, solids = min(len(taps), _MOST_TAPS), 1.12 * length, []
    for k in range(shown):
        center = step * (k - (shown - 1) / 2) * _EDGE_VIEW[0]
        solids += _pair(edge, taps[k], center + _upright(length))
        # A dial below shows where the roll takes the frame's axis x.
        angle, below = float(tap_angles(len(taps))[k]), center - [0, 1.2 * length, 0]
        hand = 0.43 * length * np.array([np.cos(angle), 0, np.sin(angle)])
        up = np.array([0, 0.025 * length, 0])
        solids.append(disc(below - up, below, 0.45 * length, (0.93, 0.93, 0.93)))
        solids.append(arrow(below + up, below + up + hand, 0.022 * length, _AXES["x"]))
    paint(axes, solids, _EDGE_VIEW)
    half = np.array([step * shown, 2.5 * length]) / 2
    page.show(axes, -half, half)
    count = f"{len(taps)} taps" if shown == len(taps) else f"{shown} of {len(taps)} taps"
    turn = f"rolled about the edge by multiples of {360 / len(taps):.3g}°"
    page.caption(axes, *(("1 tap", "not rolled") if len(taps) == 1 else (count, turn)))


def _upright(length: float) -> np.ndarray:
    """Return the places (2, 3) of source and target in the edge's frame."""
    return np.array([[0, length / 2, 0], [0, -length / 2, 0]])


def _show_height(page: Page, axes: Axes, middle: np.ndarray, height: float) -> None:
    half = np.array([0, height / 2])
    page.show(axes, middle - half, middle + half)


def _pair(edge: Edge, functions: Tensor, ends: np.ndarray) -> list[Solid]:
    """Return the functions (2, (L + 1)**2) of source and target at their places (2, 3), and the edge."""
    length, unit = float(np.linalg.norm(edge.vec)), largest_value(edge.functions.in_structure)
    solids = [
        spherical_function(f, end, unit=unit, radius=0.55 * length, num_points=4000)
        for f, end in zip(functions, ends, strict=True)
    ]
    return [*solids, stick(ends[0], ends[1], 0.018 * length, _GREY)]


def _axes_of_frame(
    axes: Axes, view: np.ndarray, origin: np.ndarray, frame: np.ndarray, length: float
) -> list[Solid]:
    """Return the axes of a frame (3, 3) at the middle of its edge, y beyond the source; write their names."""
    solids, ranges = [], ((0, 0.8), (0.5, 1.15), (0, 0.8))
    for (name, color), direction, (first, last) in zip(_AXES.items(), length * frame, ranges, strict=True):
        solids.append(arrow(origin + first * direction, origin + last * direction, 0.026 * length, color))
        x, y, _ = view @ (origin + 1.13 * last * direction)
        axes.text(x, y, f"${name}$", fontsize=9, color=color, ha="center", va="center")
    return solids
