"""Figures: predicted against calculated values, and the loss over a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocp_scn.fairchem.files import written_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_parity(path: Path, title: str, panels: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Draw a panel for each quantity, as (calculated, predicted) of any equal shape; NaN is left out."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), squeeze=False)
    for axis, (label, (truth, prediction)) in zip(axes[0], panels.items(), strict=True):
        known = truth.isfinite()
        truth, prediction = truth[known], prediction[known]  # noqa: PLW2901
        low, high = float(truth.min()), float(truth.max())
        axis.plot([low, high], [low, high], color="0.6", linewidth=1)
        size = 4 if truth.numel() > 200 else 16
        axis.scatter(truth.flatten(), prediction.flatten(), s=size, alpha=0.4, linewidths=0)
        axis.set(title=f"{title}: {label}", xlabel="calculated", ylabel="predicted")
    _save(figure, path)


def plot_loss(path: Path, logs: Path) -> None:
    """Draw the training and validation loss over the steps, from tensorboard's files if there are any."""
    if not logs.is_dir():
        return
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for tag in ("train/loss", "val/loss"):
        if tag in events.Tags()["scalars"]:
            scalars = events.Scalars(tag)
            marker = "o" if tag.startswith("val") else None
            axis.plot(
                [s.step for s in scalars], [s.value for s in scalars], label=tag, marker=marker, linewidth=1
            )
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    axis.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with written_whole(path) as part:
        figure.savefig(part, dpi=120, format="png")
    plt.close(figure)
