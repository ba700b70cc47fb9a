"""Figures and tables of a run: ``python -m ocp_scn.report RUN_DIR``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from fairchem.core.datasets import LmdbDataset
from fairchem.core.modules.evaluator import Evaluator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ocp_scn.errors import InputError

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EPILOG = """example:
  python -m ocp_scn.report runs/example
Compares every prediction file of the run with the data set whose ids it has, beside a predictor
that knows only the mean training energy and no forces."""
METRICS = {
    "energy_mae": "energy MAE [eV]",
    "forces_mae": "force MAE [eV/Å]",
    "forces_cosine_similarity": "force cosine",
    "energy_forces_within_threshold": "EFwT [%]",
}


@dataclass(frozen=True)
class Targets:
    """Energies (S,) eV, forces of free atoms (F, 3) eV/Å (None for IS2RE), and free atoms (S,)."""

    ids: list[str]
    energy: torch.Tensor
    forces: torch.Tensor | None
    free_atoms: torch.Tensor


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ocp_scn.report",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, help="the --run-dir of main.py")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a data set that predictions may belong to, besides those of the configuration",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    try:
        write_report(args.run_dir, args.data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(run_dir: Path, data: Sequence[Path] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """Write ``RUN_DIR/report/`` and print its table.

    Returns:
        For each data set with predictions, metrics of the ``model`` and of the ``trivial`` predictor.
    """
    training, config = _latest_training(run_dir)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    splits = _data_sets(config, data)
    mean = float(splits["train"].energy.mean())
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(run_dir.glob("results/*/*predictions.npz"), key=lambda p: p.stat().st_mtime):
        predictions = np.load(path)
        name = _matching(splits, predictions["ids"])
        if name is None:
            raise InputError(f"{path}: its ids are those of no data set known; pass --data FOLDER")
        order = np.argsort(splits[name].ids)  # fairchem writes predictions sorted by id
        targets = _reorder(splits[name], order)
        energy = torch.as_tensor(predictions["energy"]).double().view(-1)
        forces = None
        if targets.forces is not None and "forces" in predictions:
            forces = torch.as_tensor(predictions["forces"]).double()
        zero = None if forces is None else torch.zeros_like(forces)
        found[name] = {
            "model": _metrics(energy, forces, targets),
            "trivial": _metrics(torch.full_like(energy, mean), zero, targets),
        }
        _plot_parity(folder / f"parity_{name}.png", name, energy, forces, targets)
    _plot_loss(folder / "loss.png", run_dir / "logs" / "tensorboard" / training)
    if not found:
        raise InputError(f"{run_dir} has no results/*/*predictions.npz; run main.py --mode predict first")
    table = _table(found)
    (folder / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "metrics.md").write_text(table)
    print(table + f"wrote {folder}")
    return found


def _latest_training(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the configuration of the newest training in a run folder."""
    checkpoints = sorted(run_dir.glob("checkpoints/*/*checkpoint.pt"), key=lambda p: p.stat().st_mtime)
    if not checkpoints:
        raise InputError(
            f"{run_dir} has no checkpoints/*/checkpoint.pt; expected the --run-dir of a training"
        )
    config = torch.load(checkpoints[-1], map_location="cpu", weights_only=False, mmap=True)["config"]
    return checkpoints[-1].parent.name, config


def _data_sets(config: dict[str, Any], more: Sequence[Path]) -> dict[str, Targets]:
    """Read the targets of the training's data sets and of further folders, by name of the folder."""
    train = config["dataset"]
    sources = [
        split["src"]
        for key in ("val_dataset", "test_dataset")
        if (split := config.get(key)) and split.get("src")
    ]
    targets = {"train": _read_targets(train["src"], train)}
    for source in [*sources, *map(str, more)]:
        targets[Path(source).name] = _read_targets(source, train)
    return targets


def _read_targets(source: str, settings: dict[str, Any]) -> Targets:
    if not Path(source).exists():
        raise InputError(f"data set {source!r} does not exist (run this where the training ran)")
    samples = LmdbDataset({"src": source, "key_mapping": settings.get("key_mapping")})
    ids, energy, forces, free_atoms = [], [], [], []
    for sample in samples:
        free = sample.fixed == 0
        ids.append(f"{sample.sid}_{sample.fid}" if "fid" in sample else str(sample.sid))
        energy.append(float(sample.energy))
        free_atoms.append(int(free.sum()))
        if "forces" in sample:
            forces.append(sample.forces[free].double())
    return Targets(
        ids,
        torch.tensor(energy, dtype=torch.float64),
        torch.cat(forces) if forces else None,
        torch.tensor(free_atoms),
    )


def _matching(splits: dict[str, Targets], ids: np.ndarray) -> str | None:
    wanted = set(ids.tolist())
    return next((name for name, targets in splits.items() if set(targets.ids) == wanted), None)


def _reorder(targets: Targets, order: np.ndarray) -> Targets:
    forces = targets.forces
    if forces is not None:
        blocks = forces.split(targets.free_atoms.tolist())
        forces = torch.cat([blocks[i] for i in order])
    return Targets([targets.ids[i] for i in order], targets.energy[order], forces, targets.free_atoms[order])


def _metrics(energy: torch.Tensor, forces: torch.Tensor | None, targets: Targets) -> dict[str, float]:
    """Return fairchem's metrics; EFwT in percent."""
    names: dict[str, list[str]] = {"energy": ["mae"]}
    prediction = {"energy": energy, "natoms": targets.free_atoms}
    truth = {"energy": targets.energy, "natoms": targets.free_atoms}
    if forces is not None and targets.forces is not None:
        names |= {"forces": ["mae", "cosine_similarity"], "misc": ["energy_forces_within_threshold"]}
        prediction["forces"], truth["forces"] = forces, targets.forces
    result = Evaluator(eval_metrics=names).eval(prediction, truth)
    metrics = {name: float(value["metric"]) for name, value in result.items()}
    if "energy_forces_within_threshold" in metrics:
        metrics["energy_forces_within_threshold"] *= 100
    return metrics


def _table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    columns = [name for name in METRICS if any(name in rows["model"] for rows in found.values())]
    lines = ["| data | predictor | " + " | ".join(METRICS[c] for c in columns) + " |"]
    lines.append("|---|---|" + "---:|" * len(columns))
    for name, rows in found.items():
        for predictor, metrics in rows.items():
            cells = [f"{metrics[c]:.4g}" if c in metrics else "" for c in columns]
            lines.append(f"| {name} | {predictor} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plot_parity(
    path: Path, name: str, energy: torch.Tensor, forces: torch.Tensor | None, targets: Targets
) -> None:
    panels = [("energy [eV]", targets.energy, energy)]
    if forces is not None and targets.forces is not None:
        panels.append(("force components [eV/Å]", targets.forces.flatten(), forces.flatten()))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), squeeze=False)
    for axis, (label, truth, prediction) in zip(axes[0], panels, strict=True):
        low, high = float(truth.min()), float(truth.max())
        axis.plot([low, high], [low, high], color="0.6", linewidth=1)
        axis.scatter(truth, prediction, s=4, alpha=0.4, linewidths=0)
        axis.set(title=f"{name}: {label}", xlabel="calculated", ylabel="predicted")
    _save(figure, path)


def _plot_loss(path: Path, logs: Path) -> None:
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
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
