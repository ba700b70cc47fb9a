"""The command line of the report: which runs it looks at, and its tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ocp_scn.arrays import some
from ocp_scn.errors import InputError, memory_fault
from ocp_scn.fairchem.files import RELAXED_FILE, refused_writes, written_whole
from ocp_scn.fairchem.v1.lmdb import read_data_set
from ocp_scn.fairchem.v1.loading import read_checkpoint
from ocp_scn.fairchem.v1.relaxations import (
    RECORD_FILE,
    Relaxed,
    read_record,
    read_relaxed,
    relaxation_metrics,
    relaxed_energy,
    system_name,
)
from ocp_scn.npz import Npz
from ocp_scn.options import Parser
from ocp_scn.report.figures import plot_loss, plot_parity
from ocp_scn.report.predictions import (
    Targets,
    check_finite,
    check_rows,
    composition_energy,
    data_set_name,
    data_sets,
    matching,
    metrics,
    mismatch,
)
from ocp_scn.submission.results import read_results
from ocp_scn.unpickling import TRUST_HELP, trust

EPILOG = """example:
  ocp-scn report runs/demo
Compares every prediction file and every relaxation of the run with the data set whose ids it has, beside a
predictor that knows only the mean training energy (beyond the references of elements, of a model with those):
no forces, and initial structures for relaxed ones."""
# Tables, and their columns: fairchem's names of metrics, what they are called, their factor.
TITLES = {
    "s2ef": "S2EF: energies and forces of structures",
    "is2re": "IS2RE direct: relaxed energies from initial structures",
    "relaxation": "IS2RE and IS2RS by relaxation: relaxed energies and structures",
}
COLUMNS = {
    "s2ef": {
        "energy_mae": ("energy MAE [eV]", 1),
        "forces_mae": ("force MAE [eV/Å]", 1),
        "forces_cosine_similarity": ("force cosine", 1),
        "energy_forces_within_threshold": ("EFwT [%]", 100),
    },
    "is2re": {"energy_mae": ("energy MAE [eV]", 1), "energy_within_threshold": ("EwT [%]", 100)},
    "relaxation": {
        "is2re_energy_mae": ("energy MAE [eV]", 1),
        "is2re_energy_within_threshold": ("EwT [%]", 100),
        "is2rs_positions_mae": ("position MAE [Å]", 1),
        "is2rs_positions_average_distance_within_threshold": ("ADwT [%]", 100),
    },
}


class Training(NamedTuple):
    """A training: its name, configuration, and the model's references, eV by atomic number."""

    name: str
    config: dict[str, Any]
    references: torch.Tensor | None


Rows = dict[str, dict[str, dict[str, float]]]  # of a table: metrics by data set and predictor


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn report",
        description="Write figures and tables of a run.",
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
        help="a data set that results may belong to, besides those of the configuration",
    )
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    if args.trust:
        trust()
    try:
        write_report(args.run_dir, args.data)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: {memory_fault(error)}", file=sys.stderr)
        return 2
    return 0


def write_report(run_dir: Path, data: Sequence[Path] = ()) -> dict[str, Rows]:
    """Write ``RUN_DIR/report/`` and print its tables.

    Returns:
        For each table and each data set with results, metrics of the ``model`` and of the ``trivial``
        predictor.
    """
    trainings, more = latest_trainings(run_dir), [str(path) for path in data]
    folder = run_dir / "report"
    with refused_writes(folder):
        folder.mkdir(exist_ok=True)
    splits = {task: data_sets(found.config, more, found.references) for task, found in trainings.items()}
    for path in more:
        named = [sets[data_set_name(path)] for sets in splits.values() if data_set_name(path) in sets]
        if all(targets.unlabelled for targets in named):
            raise InputError(f"--data {path!r} has no structure with an energy")
    tables = compare_predictions(run_dir, splits)
    mean = splits["is2re"]["train"].rest if "is2re" in splits else None
    references = trainings["is2re"].references if "is2re" in splits else None
    tables["relaxation"] = compare_relaxations(run_dir, mean, references)
    tables = {task: dict(sorted(rows.items())) for task, rows in tables.items() if rows}
    if not tables:
        raise InputError(
            f"{run_dir} has no results/*/*predictions.npz or {RELAXED_FILE}; run main.py --mode predict first"
        )
    for task, found in trainings.items():
        lost = plot_loss(folder / f"loss_{task}.png", run_dir / "logs" / "tensorboard" / found.name)
        print(*(f"{line}\n" for line in lost), sep="", end="")
    text = "\n".join(f"{TITLES[task]}\n\n{format_table(task, rows)}" for task, rows in tables.items())
    for name, content in {"metrics.json": json.dumps(tables, indent=1) + "\n", "metrics.md": text}.items():
        with written_whole(folder / name) as part:
            part.write_text(content, encoding="utf-8")
    print(text + f"wrote {folder}")
    return tables


def latest_trainings(run_dir: Path) -> dict[str, Training]:
    """Return the newest training in a run folder, for ``s2ef`` and ``is2re``."""
    found: dict[str, Training] = {}
    for path in sorted(run_dir.glob("checkpoints/*/*checkpoint.pt"), key=lambda p: p.stat().st_mtime):
        checkpoint = read_checkpoint(path, needed=("state_dict", "config"), mmap=True)
        config, references = checkpoint["config"], (checkpoint.get("elementrefs") or {}).get("energy", {})
        for name in ("outputs", "dataset"):
            if not isinstance(config.get(name), Mapping):
                raise InputError(f"{path}: its {name} is {config.get(name)!r}; expected a section")
        if "src" not in config["dataset"]:
            raise InputError(f"{path} is no checkpoint of a training: it names no training set")
        task = "s2ef" if "forces" in config["outputs"] else "is2re"
        found[task] = Training(path.parent.name, config, references.get("element_references"))
    if not found:
        raise InputError(
            f"{run_dir} has no checkpoints/*/checkpoint.pt; expected the --run-dir of a training"
        )
    return dict(sorted(found.items(), reverse=True))


def compare_predictions(run_dir: Path, splits: dict[str, dict[str, Targets]]) -> dict[str, Rows]:
    """Return the rows of every prediction file, the newest of each data set, and draw them."""
    tables: dict[str, Rows] = {task: {} for task in splits}
    for path in _by_age(run_dir, "*predictions.npz"):
        predictions = read_results([path], "s2ef" if "forces" in Npz(path) else "is2re")
        check_finite(path, predictions)
        names = {task: matching(sets, predictions["ids"]) for task, sets in splits.items()}
        task, name = next(((task, name) for task, name in names.items() if name), (None, None))
        if task is None or name is None:
            known = {name: targets for sets in splits.values() for name, targets in sets.items()}
            raise InputError(f"{path}: {mismatch(known, predictions['ids'])}; pass --data FOLDER")
        targets = splits[task][name]
        if targets.unlabelled:
            print(f"not compared: {path}, since no structure of {name!r} has an energy")
            continue
        energy = torch.as_tensor(predictions["energy"]).double().view(-1)
        trivial = targets.composition + splits[task]["train"].rest
        panels = {"energy [eV]": (targets.energy, energy)}
        forces = zero = None
        if targets.forces is not None and "forces" in predictions:
            check_rows(path, predictions, targets)
            forces = torch.as_tensor(predictions["forces"]).double()
            zero = torch.zeros_like(forces)
            panels["force components [eV/Å]"] = (targets.forces, forces)
        tables[task][name] = {
            "model": metrics(energy, forces, targets),
            "trivial": metrics(trivial, zero, targets),
        }
        plot_parity(run_dir / "report" / f"parity_{task}_{name}.png", name, panels)
    return tables


def compare_relaxations(run_dir: Path, mean: float | None, references: torch.Tensor | None = None) -> Rows:
    """Return the rows of all relaxations with known results, the newest of each data set, and draw them.

    Args:
        run_dir: the run folder; its relaxations know their data sets.
        mean: the mean relaxed energy of a training set, eV, if there is one; beyond the references if given.
        references: of elements, eV by atomic number.
    """
    rows: Rows = {}
    for path in _by_age(run_dir, RELAXED_FILE):
        relaxed, source = read_relaxed(path), read_record(path.parent / RECORD_FILE)["src"]
        found = {system_name(system): system for system in read_data_set(source)}
        foreign = np.setdiff1d(list(relaxed), list(found))
        if len(foreign):
            raise InputError(
                f"{path}: {len(foreign)} of its {len(relaxed)} ids are not in {source!r}, {some(foreign)}"
            )
        if len(relaxed) < len(found):
            print(
                f"{path}: {len(found) - len(relaxed)} of the {len(found)} systems of {source!r} are not in it"
            )
        systems = {
            sid: system
            for sid, system in found.items()
            if sid in relaxed and relaxed_energy(system) is not None
        }
        model = relaxation_metrics(systems.values(), relaxed)
        if not model:
            continue
        initial = {
            sid: Relaxed(system.pos.double().numpy(), composition_energy(system, references) + (mean or 0.0))
            for sid, system in systems.items()
        }
        trivial = relaxation_metrics(systems.values(), initial)
        if mean is None:
            trivial = {key: value for key, value in trivial.items() if key.startswith("is2rs")}
        name = data_set_name(source)
        rows[name] = {"model": model, "trivial": trivial}
        truth = torch.tensor([relaxed_energy(system) for system in systems.values()])
        energy = torch.tensor([relaxed[sid].energy for sid in systems])
        panels = {"relaxed energy [eV]": (truth, energy)}
        plot_parity(run_dir / "report" / f"parity_relaxation_{name}.png", name, panels)
    return rows


def format_table(task: str, rows: Rows) -> str:
    """Return a table in Markdown; a metric that the model does not have has no column."""
    columns = {
        key: value
        for key, value in COLUMNS[task].items()
        if any(key in predictors["model"] for predictors in rows.values())
    }
    lines = ["| data | predictor | " + " | ".join(label for label, _ in columns.values()) + " |"]
    lines.append("|---|---|" + "---:|" * len(columns))
    for name, predictors in rows.items():
        for predictor, values in predictors.items():
            cells = [
                f"{factor * values[key]:.4g}" if key in values else "" for key, (_, factor) in columns.items()
            ]
            lines.append(f"| {name} | {predictor} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_age(run_dir: Path, pattern: str) -> list[Path]:
    return sorted(run_dir.glob(f"results/*/{pattern}"), key=lambda path: path.stat().st_mtime)
