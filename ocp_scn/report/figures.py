"""Figures of a report: PNG and PDF of each, and a PNG of every panel for narrow pages.

No text of a file or a data set is drawn but chemical symbols.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ase import Atoms
from ase.visualize.plot import plot_atoms
from matplotlib.colors import LogNorm
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ocp_scn.fairchem.files import written_whole
from ocp_scn.report.losses import Curve, smoothed
from ocp_scn.report.metrics import Group

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "0.55"  # distinct for colour-blind readers
_DPI = 300
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": _DPI,
}
_DENSE = 3000  # points of a panel from which their density is drawn
_AT_ONCE = 1 << 20
_BARS = 20
PANEL = 3.1  # inches


@contextmanager
def _drawn(panels: int, path: Path, height: float = PANEL) -> Iterator[tuple[Any, list[Any], list[bytes]]]:
    """Yield a figure, its axes, and a list that gets the PNG of every panel when the figure is saved."""
    images: list[bytes] = []
    engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, wspace=0.03)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(PANEL * panels, height), squeeze=False, layout=engine)
        try:
            yield figure, list(axes[0]), images
            images += _save(figure, path)
        finally:
            plt.close(figure)


def _save(figure: Any, path: Path, *, titles: bool = True) -> list[bytes]:
    """Write a figure as PNG, under ``path``, and PDF; return the PNG of each panel, or of its inside."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the panels stay where they are
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    with written_whole(path) as part:
        part.write_bytes(_png(pixels))
    with written_whole(path.with_suffix(".pdf")) as part:
        figure.savefig(part, format="pdf", metadata={"CreationDate": None})
    images = []
    for axis in figure.axes:
        box = axis.get_tightbbox().padded(_DPI / 20) if titles else axis.get_window_extent()
        rows = slice(max(0, int(len(pixels) - box.y1)), int(len(pixels) - box.y0))
        images.append(_png(pixels[rows, max(0, int(box.x0)) : int(box.x1)]))
    return images


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    plt.imsave(file, np.ascontiguousarray(pixels), format="png", dpi=_DPI)
    return file.getvalue()


def plot_parity(path: Path, panels: Mapping[str, tuple[Any, Any]]) -> list[bytes]:
    """Draw a square panel for each quantity, with its mean absolute error and R².

    Args:
        path: the PNG to write; a PDF is written beside it.
        panels: by the name of the quantity with its unit in brackets, (calculated, predicted) of any equal
            shape; NaN is left out.

    Returns:
        The PNG of each panel.
    """
    known = {name: _known(*values) for name, values in panels.items()}
    known = {name: values for name, values in known.items() if len(values[0])}
    with _drawn(max(1, len(known)), path) as (_, axes, images):
        for axis, (name, (truth, prediction)) in zip(axes, known.items(), strict=False):
            quantity, _, unit = name.partition(" [")
            low, high = _limits(truth, prediction)
            axis.plot([low, high], [low, high], color=GRAY, linewidth=0.8, zorder=1)
            if len(truth) > _DENSE:
                _density(axis, truth, prediction, (low, high))
            else:
                size = 5 if len(truth) > 200 else 12
                axis.scatter(truth, prediction, s=size, color=BLUE, alpha=0.5, linewidths=0, zorder=2)
            axis.set(
                xlim=(low, high),
                ylim=(low, high),
                xlabel=f"calculated {quantity} [{unit}",
                ylabel=f"predicted {quantity} [{unit}",
            )
            axis.set_aspect("equal", adjustable="box")
            for part in (axis.xaxis, axis.yaxis):
                part.set_major_locator(MaxNLocator(5))
            off = prediction - truth
            lines = [f"MAE {np.abs(off).mean():.3g} {unit.rstrip(']')}"]
            spread = ((truth - truth.mean()) ** 2).sum()
            if spread > 0:
                lines.append(f"R² {1 - (off**2).sum() / spread:.3f}")
            lines.append(f"n = {len(truth):,}")
            axis.text(0.04, 0.96, "\n".join(lines), transform=axis.transAxes, va="top", linespacing=1.35)
    return images


def signed(value: float, form: str) -> str:
    """Return a number with a minus, not a hyphen, where it is negative."""
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def _known(truth: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(values, dtype=np.float64).ravel() for values in (truth, prediction))
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]


def _limits(*values: np.ndarray) -> tuple[float, float]:
    low, high = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _density(axis: Any, x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw how many points are in each hexagon; some are counted at a time, which bounds the memory."""
    total, cells = None, None
    for begin in range(0, len(x), _AT_ONCE):
        if cells is not None:
            cells.remove()
        part = slice(begin, begin + _AT_ONCE)
        cells = axis.hexbin(
            x[part], y[part], gridsize=60, extent=(*limits, *limits), linewidths=0.1, zorder=2
        )
        counts = np.asarray(cells.get_array(), dtype=np.float64)
        total = counts if total is None else total + counts
    assert cells is not None
    assert total is not None
    cells.set_array(np.ma.masked_less(total, 1))
    cells.set_norm(LogNorm(1, max(2.0, total.max())))
    cells.set_cmap("viridis")
    cells.set_edgecolor("face")
    inset = axis.inset_axes((0.62, 0.12, 0.33, 0.035))
    bar = axis.figure.colorbar(cells, cax=inset, orientation="horizontal")
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=6.5, length=2, width=0.4)
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    bar.ax.set_title("points", fontsize=6.5, pad=2)


def plot_loss(path: Path, training: Curve, validation: Curve, *, running: bool = False) -> list[bytes]:
    """Draw the loss of every step, its running mean, and the validation loss.

    Args:
        path: the PNG to write; a PDF is written beside it.
        training: the loss of each step, or what fairchem logs of it where that is unknown.
        validation: that of evaluations.
        running: whether ``training`` is a running mean already.
    """
    with _drawn(1, path, height=0.8 * PANEL) as (_, (axis,), images):
        name = "training, fairchem's running mean" if running else "training, each step"
        axis.plot(
            *training,
            color=BLUE,
            alpha=0.35,
            linewidth=0.5,
            label=name,
            rasterized=len(training.steps) > _DENSE,
        )
        if not running and len(training.steps) > 3:
            axis.plot(*smoothed(training), color=BLUE, label="training, smoothed")
        if len(validation.steps):
            axis.plot(*validation, color=ORANGE, marker="o", markersize=3, label="validation")
        axis.set(xlabel="step", ylabel="loss")
        positive = np.concatenate([training.losses, validation.losses])
        if (positive > 0).any():
            axis.set_yscale("log")
            positive = positive[positive > 0]
            if positive.max() < 30 * positive.min():
                _plain_numbers(axis.yaxis)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend = axis.legend()
        for line in legend.get_lines()[:1]:
            line.set(alpha=0.6, linewidth=1)
    return images


def _plain_numbers(axis: Any) -> None:
    """Label a short logarithmic axis with numbers that are no powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))


def plot_histograms(path: Path, panels: Mapping[str, Any]) -> list[bytes]:
    """Draw how often errors (any shape) of each quantity, named with its unit in brackets, occur."""
    with _drawn(len(panels), path, height=0.8 * PANEL) as (_, axes, images):
        for axis, (name, values) in zip(axes, panels.items(), strict=True):
            flat = np.asarray(values).ravel()
            flat = flat[np.isfinite(flat)]
            quantity, _, unit = name.partition(" [")
            bins = int(np.clip(2 * np.sqrt(flat.size), 10, 80))
            limit = float(np.abs(flat).max(initial=0)) or 1.0
            axis.hist(flat, bins=bins, range=(-limit, limit), color=BLUE, alpha=0.85)
            axis.axvline(0, color="0.2", linewidth=0.7)
            axis.set(xlabel=f"error of the {quantity} [{unit}", ylabel="count")
            if flat.size > _DENSE:
                axis.set_yscale("log")
            if flat.size:
                lines = [f"mean {signed(flat.mean(), '.2g')}", f"median size {np.median(np.abs(flat)):.2g}"]
                axis.text(0.98, 0.97, "\n".join(lines), transform=axis.transAxes, va="top", ha="right")
    return images


def plot_within(path: Path, factors: Mapping[str, np.ndarray]) -> list[bytes]:
    """Draw which part of the structures is within so many times OC20's thresholds.

    Args:
        path: the PNG to write; a PDF is written beside it.
        factors: (S,) of each quantity, errors divided by the threshold.
    """
    colors = {"energy": BLUE, "forces": ORANGE, "energy and forces": GREEN}
    with _drawn(1, path, height=0.8 * PANEL) as (_, (axis,), images):
        x = np.logspace(-1, 2.5, 400)
        for name, values in factors.items():
            share = 100 * np.searchsorted(np.sort(values), x) / max(1, len(values))
            style = "-" if name != "energy and forces" or len(factors) == 1 else "--"
            axis.plot(x, share, style, color=colors[name], label=name)
        axis.axvline(1, color=GRAY, linewidth=0.7)
        axis.set(xscale="log", xlim=(x[0], x[-1]), ylim=(0, 100), ylabel="structures within [%]")
        axis.set_xlabel("thresholds, as multiples of OC20's")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.legend(loc="upper left")
    return images


def plot_groups(path: Path, groups: Sequence[Group]) -> list[bytes]:
    """Draw the mean absolute errors of groups as bars, of the largest ones where there are many."""
    columns = {"force MAE [eV/Å]": ("force_mae", "atoms"), "energy MAE [eV]": ("energy_mae", "structures")}
    panels = {
        label: [group for group in groups if np.isfinite(getattr(group, key))]
        for label, (key, _) in columns.items()
    }
    panels = {label: kept for label, kept in panels.items() if kept}
    longest = max(min(_BARS, len(kept)) for kept in panels.values())
    with _drawn(len(panels), path, height=0.6 + 0.19 * longest) as (_, axes, images):
        for axis, (label, kept) in zip(axes, panels.items(), strict=True):
            key, count = columns[label]
            shown = sorted(kept, key=lambda group: getattr(group, key))[-_BARS:]
            names = [f"{group.name}  ({getattr(group, count):,})" for group in shown]
            sizes = [getattr(group, key) for group in shown]
            places = np.arange(longest - len(shown), longest)
            axis.barh(places, sizes, color=BLUE if "force" in label else ORANGE, height=0.7)
            axis.set_yticks(places, names)
            axis.set(ylim=(-0.6, longest - 0.4), xlabel=label)
            axis.tick_params(axis="y", length=0)
            axis.xaxis.set_major_locator(MaxNLocator(5))
    return images


def plot_structures(path: Path, structures: Sequence[Atoms], labels: Sequence[str]) -> list[bytes]:
    """Draw structures from the side, five in a row, with a number and a label each."""
    columns = min(5, len(structures))
    rows = -(-len(structures) // columns)
    images: list[bytes] = []
    with plt.rc_context(_STYLE):
        size = (1.5 * columns, 1.75 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        try:
            for number, axis in enumerate(axes.ravel()):
                axis.set_axis_off()
                if number < len(structures):
                    _draw_atoms(axis, structures[number])
                    axis.set_anchor("N")  # titles stand in a row
                    axis.set_title(f"{number + 1}\n{labels[number]}", fontsize=6.5)
            for axis in axes.ravel()[len(structures) :]:
                axis.remove()
            images += _save(figure, path, titles=False)
        finally:
            plt.close(figure)
    return images


def _draw_atoms(axis: Any, atoms: Atoms) -> None:
    # The cell's outline hides what stands in it, above all that of a slab with its vacuum.
    plot_atoms(atoms, axis, rotation="-85x,8y", show_unit_cell=0)
