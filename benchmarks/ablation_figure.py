"""The figure of the ablations: every run, and the mean of the seeds with its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METRIC, LABEL = "forces_cosine_similarity", "force cosine on val_id"


def plot(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    changes: Sequence[str],
    samples: Mapping[str, Mapping[float, str]],
) -> None:
    """Draw each change of the base, and each model against the size of the sample.

    Args:
        path: file to write.
        records: runs, as benchmarks.ablation keeps them.
        changes: experiments of the left panel, from the top.
        samples: for each curve of the right panel, the experiment of each part of the data.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for height, name in enumerate(reversed(changes)):
        values = _values(records, name)
        left.scatter(values, [height] * len(values), s=12, color="tab:blue", alpha=0.5, linewidths=0)
        if values:
            left.errorbar(np.mean(values), height, xerr=_spread(values), fmt="|", color="black", capsize=3)
    left.set(xlabel=LABEL, yticks=range(len(changes)), yticklabels=list(reversed(changes)))
    base = _values(records, changes[0])
    if base:
        left.axvline(np.mean(base), color="0.8", zorder=0)
    for name, experiments in samples.items():
        parts = [part for part in sorted(experiments) if _values(records, experiments[part])]
        if not parts:
            continue
        runs = [_values(records, experiments[part]) for part in parts]
        means = [np.mean(values) for values in runs]
        right.errorbar(parts, means, yerr=[_spread(v) for v in runs], marker="o", capsize=3, label=name)
    right.set(xlabel="part of the training frames, at equal steps", ylabel=LABEL, xscale="log")
    ticks = sorted({part for experiments in samples.values() for part in experiments})
    right.set_xticks(ticks, [f"{part:g}" for part in ticks])
    right.minorticks_off()
    right.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _values(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [record[METRIC] for record in records if record["experiment"] == name]


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds, 0 for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
