"""Histograms of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ocp_scn.data.statistics import FORCE_BINS, Statistics
from ocp_scn.fairchem.files import written_whole


def draw(folder: Path, found: Statistics, max_num_neighbors: int) -> list[str]:
    """Draw sizes, elements, neighbours, and energies and forces if there are any; return the files' names."""
    of_energies = {name: values for name, values in found.energies().items() if name != "energy [eV]"}
    names = ["atoms.png", "elements.png", "neighbours.png"]
    _save(folder / names[0], [lambda axis: _bars(axis, found.atoms.counts, "atoms of a frame", "frames")])
    _save(folder / names[1], [lambda axis: _element_bars(axis, found)])
    _save(folder / names[2], [lambda axis: _neighbor_bars(axis, found, max_num_neighbors)])
    if of_energies:
        names.append("energies.png")
        _save(folder / names[-1], [_histogram(name, values) for name, values in of_energies.items()])
    if found.forces.count:
        names.append("forces.png")
        _save(folder / names[-1], [lambda axis: _force_steps(axis, found)])
    return names


def _bars(axis: Axes, counts: np.ndarray, what: str, of_what: str) -> None:
    there = np.flatnonzero(counts)
    axis.bar(there, counts[there], width=1.0)
    axis.set(xlabel=what, ylabel=of_what)


def _neighbor_bars(axis: Axes, found: Statistics, cap: int) -> None:
    _bars(axis, found.neighbors.counts, f"neighbours within {found.cutoff:g} Å", "atoms")
    axis.axvline(cap + 0.5, color="0.4", linewidth=1, label=f"max_num_neighbors = {cap}")
    axis.legend()


def _element_bars(axis: Axes, found: Statistics) -> None:
    numbers = sorted(found.elements)
    axis.bar([chemical_symbols[number] for number in numbers], [found.elements[number] for number in numbers])
    axis.set(ylabel="atoms", yscale="log")


def _force_steps(axis: Axes, found: Statistics) -> None:
    there = np.flatnonzero(found.forces.bins)
    shown = slice(there[0], there[-1] + 1)
    axis.stairs(found.forces.bins[shown], FORCE_BINS[shown.start : shown.stop + 1], fill=True)
    axis.set(xlabel="force on a free atom [eV/Å]", ylabel="atoms", xscale="log")


def _histogram(name: str, values: np.ndarray) -> Callable[[Axes], None]:
    def paint(axis: Axes) -> None:
        axis.hist(values, bins=min(100, max(10, len(values) // 10)))
        axis.set(xlabel=name, ylabel="frames")

    return paint


def _save(path: Path, panels: list[Callable[[Axes], None]]) -> None:
    """Write a picture with a panel beside the other."""
    figure = Figure(figsize=(5 * len(panels), 3.6))
    for axis, paint in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
        paint(axis)
    figure.tight_layout()
    with written_whole(path) as part:
        figure.savefig(part, dpi=120, format="png")
