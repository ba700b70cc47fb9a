"""The command line of the report: which runs it looks at, and what it writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import refused_writes, written_whole
from ocp_scn.options import Parser, status_of
from ocp_scn.report.comparisons import compare_predictions, compare_relaxations, read_splits
from ocp_scn.report.page import write_page
from ocp_scn.report.predictions import data_set_name
from ocp_scn.report.runs import Run, read_run
from ocp_scn.report.sections import comparison_section, results_section, settings_section, training_section
from ocp_scn.report.tables import TITLES, Rows, format_table
from ocp_scn.unpickling import TRUST_HELP, trust

EPILOG = """example:
  ocp-scn report runs/demo
Compares every file of predictions and every relaxation of the run with the data set that has its ids, and
with a trivial predictor: the mean training energy (plus element references, if the model has them), zero
forces, and initial structures in place of relaxed ones. RUN_DIR/report/report.html has everything."""
_LINES = {1: "fairchem-core 1.10", 2: "fairchem-core 2"}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn report",
        description="Write a report of a run: a page, figures and tables.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "run_dir", type=Path, help="the --run-dir of main.py, or the folder of a run of fairchem-core 2"
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="another data set that has results, besides those of the configuration",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another file of predictions, besides those in the run's folder",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    if args.trust:
        trust()
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    write_report(args.run_dir, args.data, args.predictions)


def write_report(
    run_dir: Path, data: Sequence[Path] = (), predictions: Sequence[Path] = ()
) -> dict[str, Rows]:
    """Write ``RUN_DIR/report/`` and print its tables.

    Args:
        run_dir: the folder of a run of either line of fairchem.
        data: further data sets.
        predictions: further files of predictions.

    Returns:
        For each table and each data set with results, metrics of the ``model`` and of the ``trivial``
        predictor.
    """
    run, notes = read_run(run_dir), list[str]()
    words = [str(run_dir)]
    for option, paths in (("--data", data), ("--predictions", predictions)):
        words += [word for path in paths for word in (option, str(path))]
    folder = run_dir / "report"
    with refused_writes(folder):
        folder.mkdir(exist_ok=True)
    more = [*map(str, data), *(source for source in run.data if Path(source).exists())]
    splits = {
        task: read_splits(training, list(dict.fromkeys(more)), notes)
        for task, training in run.trainings.items()
    }
    lacking = bool(notes)
    for path in map(str, data):
        if not any(data_set_name(path) in sets for sets in splits.values()):
            raise InputError(f"--data {path!r} has no structure with an energy")
    found = compare_predictions([*run.predictions, *predictions], splits, notes, lacking=lacking)
    if run.relaxations:
        direct = splits.get("is2re", {})
        references = run.trainings["is2re"].references if direct else None
        mean = direct["train"].rest if "train" in direct else np.nan
        found += compare_relaxations(run.relaxations, mean, references, notes)
    found.sort(key=lambda one: (list(TITLES).index(one.task), one.name))
    tables: dict[str, Rows] = {}
    for one in found:
        tables.setdefault(one.task, {})[one.name] = one.predictors
    bar = tqdm(found, desc="drawing", unit=" data sets", disable=None)
    sections = [comparison_section(one, folder) for one in bar]
    sections.append(training_section(run, folder))
    sections.append(settings_section(run, splits, found, words))
    sections.insert(0, results_section(run, tables, notes))
    write_page(folder / "report.html", run_dir.resolve().name, _lead(run), sections)
    text = "\n".join(f"{TITLES[task]}\n\n{format_table(task, rows)}" for task, rows in tables.items())
    for name, content in {"metrics.json": json.dumps(tables, indent=1) + "\n", "metrics.md": text}.items():
        with written_whole(folder / name) as part:
            part.write_text(content, encoding="utf-8", errors="backslashreplace")
    print(*(f"{note}\n" for note in notes), sep="", end="")
    print(text + f"wrote {folder / 'report.html'} and its figures")
    return tables


def _lead(run: Run) -> str:
    names = ", ".join(training.name for training in run.trainings.values())
    return f"A run with {_LINES[run.line]}: {names}."
