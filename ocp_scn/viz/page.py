"""A figure whose parts have places in inches, and the file it becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from ocp_scn.fairchem.files import written_whole

WIDTH = 8.3  # of a page; at 100 dots an inch, that of a README
HEADING, CAPTION = 0.32, 0.42  # above and below panels
_DPI, _FINER = 150, 2  # of the file, and how much finer it is painted: paint() draws hard borders


class Page:
    """A figure of the width `WIDTH`.

    Args:
        height: inches.
    """

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), dpi=_DPI * _FINER)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Return axes at a place, counted from the left and the top of the page, inches."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))

    def heading(self, top: float, letter: str, text: str) -> None:
        """Write the heading of a row that begins at ``top``."""
        y = 1 - (top + HEADING / 2) / self.height
        self.figure.text(0.08 / WIDTH, y, letter, fontsize=10.5, fontweight="bold", va="center")
        self.figure.text(0.28 / WIDTH, y, text, fontsize=9.5, va="center")

    def caption(self, axes: Axes, first: str, second: str) -> None:
        """Write two lines below axes."""
        box = axes.get_position()
        x = box.x0 + box.width / 2
        for text, down, size, color in ((first, 0.11, 8.5, "0"), (second, 0.29, 7.5, "0.35")):
            y = box.y0 - down / self.height
            self.figure.text(x, y, text, fontsize=size, color=color, ha="center", va="center")

    def show(self, axes: Axes, low: np.ndarray, high: np.ndarray) -> None:
        """Let axes show what is between two corners (2,), Å, and more where their shape is another."""
        box = axes.get_position()
        shape = np.array([box.width * WIDTH, box.height * self.height])  # inches
        middle, half = (low + high) / 2, shape * np.max((high - low) / shape) / 2
        (left, bottom), (right, top) = middle - half, middle + half
        axes.set(xlim=(left, right), ylim=(bottom, top))

    def save(self, path: Path) -> None:
        """Write the page as PNG.

        Raises:
            InputError: where it cannot be written.
        """
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        fine = np.asarray(canvas.buffer_rgba())[..., :3]
        rows, columns = (size // _FINER for size in fine.shape[:2])
        fine = fine[: rows * _FINER, : columns * _FINER].reshape(rows, _FINER, columns, _FINER, 3)
        pixels = fine.mean(axis=(1, 3)).round().astype(np.uint8)
        with written_whole(path) as part:
            imsave(part, pixels, format="png", dpi=_DPI, pil_kwargs={"optimize": True})
