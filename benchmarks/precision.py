"""Train the demo's model in float32 and in bfloat16: ``python -m benchmarks.precision``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.store import ROOT, table, write_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = ROOT / "docs/results/precision.json"
FIGURE = ROOT / "docs/images/precision.png"
CONFIG = "configs/s2ef/example/scn.yml"
METRICS = {
    "energy_mae": "energy MAE [eV]",
    "forces_mae": "force MAE [eV/Å]",
    "forces_cosine_similarity": "force cosine",
    "loss": "loss",
}
EPILOG = """example, after make demo:
  python -m benchmarks.precision
Both trainings have the seed and the data of `make demo`, and take some minutes each. The same command resumes
a training that was interrupted."""


def train(compute_dtype: str, run_dir: Path) -> None:
    """Run, or go on with, the demo's training in a precision."""
    command = [sys.executable, "main.py", "--mode", "train", "--config-yml", CONFIG, "--cpu", "--seed", "0"]
    command += ["--run-dir", str(run_dir), "--timestamp-id", compute_dtype]
    subprocess.run([*command, f"--model.compute_dtype={compute_dtype}"], cwd=ROOT, check=True)


def curves(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) pairs of the training loss and of the validations."""
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0}).Reload()
    tags = ["train/loss", *(f"val/{key}" for key in METRICS)]
    return {tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in tags}


def draw(path: Path, found: Mapping[str, Mapping[str, list[tuple[int, float]]]]) -> None:
    """Draw the losses of both trainings, on training batches and on the validation set."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    for axis, tag in zip(axes, ("train/loss", "val/loss"), strict=True):
        for name, series in found.items():
            steps, values = zip(*series[tag], strict=True)
            axis.plot(steps, values, label=name, linewidth=1, marker="o" if tag == "val/loss" else None)
        axis.set(xlabel="step", title=tag, yscale="log")
        axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=ROOT / "runs/precision",
        help="folder of the trainings (default: runs/precision)",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/precision.json)"
    )
    parser.add_argument(
        "--figure", type=Path, default=FIGURE, help="file of the figure (default: docs/images/precision.png)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    found: dict[str, Any] = {}
    for name in ("float32", "bfloat16"):
        train(name, args.run_dir.resolve())
        found[name] = curves(args.run_dir / "logs/tensorboard" / name)
    draw(args.figure, found)
    last = {name: {key: series[f"val/{key}"][-1][1] for key in METRICS} for name, series in found.items()}
    print(table(["compute_dtype", *METRICS.values()], [[name, *row.values()] for name, row in last.items()]))
    write_json(args.results, {"validation": last})  # every step is in the run's logs
    print(f"wrote {args.results} and {args.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
