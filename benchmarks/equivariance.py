"""Measure how outputs change when a structure is rotated: ``python -m benchmarks.equivariance``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.equivariance_rows import SET_BY_ROWS, Row, planned_rows, roll_rows
from benchmarks.store import ROOT, machine, read_json, table, write_json
from benchmarks.turned import (
    Weights,
    count_changed_graphs,
    difference,
    made_structures,
    mean_of,
    measure_rolls,
    measure_rotations,
    random_rotations,
    read_checkpoint,
    read_structures,
    scales,
    with_edges,
)
from ocp_scn import InputError, SCNConfig

RESULTS = ROOT / "docs/results/equivariance.json"
DATA = Path("datasets/oc20_sample/val_ood")
INITIAL = "initial"  # the name of weights that no one trained
SETTINGS: dict[str, Any] = {
    "otf_graph": True,
    "lmax": 6,
    "num_interactions": 3,
    "sphere_channels": 16,
    "sphere_channels_reduce": 16,
    "hidden_channels": 64,
    "num_basis_functions": 32,
    "num_sphere_samples": 128,
    "cutoff": 6.0,
    "distance_resolution": 0.1,
    "basis_width_scalar": 2.0,
    # Slabs have neighbours at equal distances, of which a cap, or the border between two
    # resolutions, keeps those that rounding makes nearer: another graph after a rotation.
    "max_num_neighbors": -1,
    "num_resolutions": 1,
}
FIGURES = {
    "energy": "energy",
    "energy_relative": "relative",
    "forces": "force",
    "forces_relative": "relative",
}
EPILOG = """examples:
  python -m benchmarks.equivariance
  python -m benchmarks.equivariance --checkpoint runs/oc20_sample/checkpoints/scn/best_checkpoint.pt \\
      --data datasets/oc20_sample/val_id
Without a checkpoint the model has initial weights, whose matrices are multiplied by --scale, and figures are
means over --seeds such models. Relative errors of energies per atom are in units of the standard deviation of
that energy over the structures, those of forces in units of the mean absolute force component.
docs/equivariance.md explains the rows."""


def rotation_records(
    weights: Weights, rows: Sequence[Row], structures: Sequence[Any], rotations: Tensor, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the deviations of each row; of trained weights also how far it moves outputs from the first."""
    records, as_trained = [], None
    for row in rows:
        runs = [measure_rotations(weights, row, structures, rotations, seed) for seed in seeds]
        record = {"kind": "rotations", **describe(weights, row), **mean_of([found for found, _ in runs])}
        if weights.trained:
            still = runs[0][1]
            as_trained = as_trained or still
            record |= difference(still, as_trained, scales(as_trained), "moved_")
        records.append(record)
    return records


def roll_records(
    weights: Weights, structures: Sequence[Any], draws: int, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the spread over random rolls by the number of taps, for each mmax > 0 that there is."""
    mmax = SCNConfig(**weights.settings).mmax
    records = []
    for order in range(mmax, mmax + bool(mmax)) if weights.trained else (1, 2):
        for row in roll_rows({} if weights.trained else {"mmax": order, "num_taps": 1}):
            runs = [measure_rolls(weights, row, structures, draws, seed) for seed in seeds]
            records.append({"kind": "rolls", **describe(weights, row), **mean_of(runs)})
    return records


def measure(
    weights: Weights, structures: Sequence[Any], args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what all records have in common, and the records."""
    config = SCNConfig(**weights.settings)
    generator = torch.Generator().manual_seed(args.seed)
    rotations = random_rotations(len(structures) * args.rotations, generator)
    rotations = rotations.unflatten(0, (len(structures), args.rotations))
    structures = [with_edges(structure, config) for structure in structures]
    seeds = [args.seed] if weights.trained else range(args.seed, args.seed + args.seeds)
    rows = planned_rows(weights.settings, trained=weights.trained)
    records = rotation_records(weights, rows, structures, rotations, seeds)
    records += roll_records(weights, structures, args.draws, seeds)
    common = {
        "kind": "run",
        "weights": weights.name,
        "settings": weights.settings,
        "scale": weights.scale,
        "seeds": len(seeds),
        "structures": len(structures),
        "atoms": [len(structure.pos) for structure in structures],
        "rotations": args.rotations,
        "draws": args.draws,
        "changed_graphs": count_changed_graphs(structures, rotations, config),
        **machine(),
    }
    return common, records


def describe(weights: Weights, row: Row) -> dict[str, Any]:
    """Return what a record says about its row."""
    config = SCNConfig(**{**weights.settings, **row.changes})
    return {
        "weights": weights.name,
        "row": row.name,
        "mmax": config.mmax,
        "taps": config.taps,
        "eval_taps": config.eval_taps,
        "bands": config.num_bands if config.use_grid else 0,
        "dtype": row.dtype,
    }


def rotation_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of deviations under rotations."""
    columns, shown = ["orders", "taps", "aggregation", "evaluation", *FIGURES.values()], [*FIGURES]
    if "moved_energy" in records[0]:
        columns += ["energy moved", "forces moved"]
        shown += ["moved_energy_relative", "moved_forces_relative"]
    rows = [
        [
            orders(r["mmax"]),
            r["taps"],
            aggregation(r["bands"]),
            r["row"],
            *(two_digits(r[key]) for key in shown),
        ]
        for r in records
    ]
    return table(columns, rows)


def roll_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table of spreads over rolls."""
    rows = [[orders(r["mmax"]), r["eval_taps"], *(two_digits(r[key]) for key in FIGURES)] for r in records]
    return table(["orders", "taps in evaluation", *FIGURES.values()], rows)


def two_digits(value: float) -> float:
    """Return a number rounded to two digits, more than these samples support."""
    return float(f"{value:.2g}")


def orders(mmax: int) -> str:
    """Return the orders that messages keep."""
    return f"-{mmax}..{mmax}" if mmax else "0"


def aggregation(bands: int) -> str:
    """Return how messages are aggregated."""
    return {0: "sum", 1: "grid, 1 band"}.get(bands, f"grid, {bands} bands")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equivariance",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, help=f"LMDB folder (default: {DATA} if it exists, else generated slabs)"
    )
    parser.add_argument("--checkpoint", type=Path, help="file of trained weights, in place of initial ones")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the model with initial weights",
    )
    parser.add_argument(
        "--scale", type=float, default=3.0, help="factor of initial weight matrices (default: %(default)s)"
    )
    parser.add_argument(
        "--structures", type=int, default=6, help="number of structures (default: %(default)s)"
    )
    parser.add_argument(
        "--rotations", type=int, default=2, help="rotations of each structure (default: %(default)s)"
    )
    parser.add_argument(
        "--draws", type=int, default=4, help="number of draws of random rolls (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=2, help="number of models with initial weights (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of structures, rotations and weights (default: %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/equivariance.json)"
    )
    return parser


def read_input(args: argparse.Namespace) -> tuple[Weights, list[Any], str]:
    """Return weights, structures and the name of the data.

    Raises:
        InputError: for what the command cannot use.
    """
    for name, least in (("structures", 2), ("rotations", 1), ("draws", 2), ("seeds", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}; expected at least {least}")
    if args.checkpoint is not None and args.model:
        raise InputError("--model goes with initial weights only; a checkpoint has its own settings")
    if args.checkpoint is None:
        settings = SETTINGS | dict(parse_setting(text) for text in args.model)
        weights = Weights(INITIAL, settings, scale=args.scale)
    else:
        weights = read_checkpoint(args.checkpoint)
    for row in planned_rows(weights.settings, trained=weights.trained):
        SCNConfig(**{**weights.settings, **row.changes})  # all settings are possible
    folder = args.data or (DATA if DATA.is_dir() else None)
    if folder is None:
        return weights, made_structures(args.structures, args.seed), "made slabs"
    return weights, read_structures(folder, args.structures), str(folder)


def parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of KEY=VALUE."""
    key, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--model {text!r}; expected KEY=VALUE")
    if key in SET_BY_ROWS:
        raise InputError(f"--model {text!r}: the rows of the table set {key}")
    return key, yaml.safe_load(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    start = time.perf_counter()
    try:
        weights, structures, data = read_input(args)
        common, records = measure(weights, structures, args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    common |= {"data": data, "seconds": round(time.perf_counter() - start)}
    print(
        f"{common['structures']} structures of {data}, {common['rotations']} rotations each: "
        f"{common['changed_graphs']} of {common['structures'] * common['rotations']} have other edges "
        f"afterwards. Units: {'eV and eV/Å' if weights.trained else 'those of the outputs'}.\n"
    )
    print(rotation_table([r for r in records if r["kind"] == "rotations"]))
    if rolls := [r for r in records if r["kind"] == "rolls"]:
        print(roll_table(rolls))
    others = [record for record in read_json(args.results) if record["weights"] != weights.name]
    write_json(args.results, [*others, common, *records])
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
