"""Measure time and memory of our models and of others: ``python -m benchmarks.speed``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.devices import add_arguments, check_arguments, results_path
from benchmarks.models import VARIANTS
from benchmarks.process import RATES, measure
from benchmarks.store import ROOT, machine, table, write_json
from ocp_scn.errors import InputError

RESULTS = ROOT / "docs/results/speed.json"
MODELS = [f"{kind} {variant}" for variant in VARIANTS for kind in ("ours", "fairchem")] + [
    "eSCN",
    "EquiformerV2",
]
EPILOG = """examples:
  python -m benchmarks.speed --atoms 38 --threads 2
  python -m benchmarks.speed --device cuda --atoms 66 --batch-size 8 --precision tf32
  python -m benchmarks.speed --device cuda --atoms 66 --precision tf32 --cuda-graphs --calls inference
Models of the same variant take turns, so a busy machine slows them all alike; so do the models without a
variant. Each turn is a process of its own, since one process may be a tenth slower throughout than another. A
turn calls the model for two seconds to warm up and for two more seconds, and its time is the median of the
latter calls. The table has the medians of the turns, and the first and third quartile.
Before and after these calls, large matrix products of the same precision are timed. "of the limit" is the
speed of the model relative to the speed of these products. Memory is the peak of a first call, minus what is
held before it: by the model, for a training step by its gradients, and by the libraries, which a call with
three atoms loads. It is the resident set, or with a GPU the tensors on it."""


def groups(models: Sequence[str]) -> list[list[str]]:
    """Return the models that take turns: those of a variant, and those that have none."""
    variants = dict.fromkeys(model.partition(" ")[2] for model in models)
    return [[model for model in models if model.partition(" ")[2] == variant] for variant in variants]


def measure_together(models: Sequence[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record for each of some models and kind of call, which take turns."""
    torch.set_num_threads(args.threads)  # which goes into the records
    names = "atoms", "batch_size", "threads", "device", "precision", "cuda_graphs"
    settings = {name: getattr(args, name) for name in names}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(m, c): [] for m in models for c in args.calls}
    for _ in range(args.repeats):
        for (model, call), turns in found.items():
            turns.append(measure(model, call, **settings))
    records = []
    for (model, call), turns in found.items():
        low, median, high = np.quantile([turn["seconds"] for turn in turns], [0.25, 0.5, 0.75])
        record = {"model": model, "call": call, **turns[0], "seconds": median, "spread": [low, high]}
        record["bytes"] = int(np.median([turn["bytes"] for turn in turns]))
        for rate in RATES:
            record[rate] = float(np.median([turn[rate] for turn in turns]))
        if "flops" in record:  # a training step needs the forward's products and two for each of them
            needed = record["flops"] * (1 if call == "inference" else 3)
            fractions = [needed / turn["seconds"] / turn[RATES[1]] for turn in turns]
            record["fraction"] = float(np.median(fractions))
        records.append(record)
    facts = {**machine(args.device), "precision": args.precision, "batch_size": args.batch_size}
    facts["cuda_graphs"] = args.cuda_graphs
    return [{**record, **facts} for record in records]


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table, with ratios to fairchem's SCN where it was measured with the same settings."""
    by_name = {(r["model"], r["call"]): r for r in records}
    rows: list[list[Any]] = []
    on_gpu = any("launches" in r for r in records)
    for r in records:
        reference = by_name.get((f"fairchem {r['model'].partition(' ')[2]}", r["call"]), {})
        low, high = r["spread"]
        rows.append(
            [
                r["model"],
                r["call"],
                f"{r['seconds']:.3g} ({low:.3g} to {high:.3g})",
                f"{reference['seconds'] / r['seconds']:.2f}" if reference else "",
                f"{r['bytes'] / 2**20:.0f}",
                f"1/{reference['bytes'] / r['bytes']:.1f}" if reference else "",
                f"{r['fraction']:.2f}" if "fraction" in r else "",
                *([str(r["launches"]), str(r["waits"])] if on_gpu else []),
            ]
        )
    columns = ["model", "call", "seconds", "times fairchem's speed", "MiB", "of fairchem's", "of the limit"]
    return table([*columns, *(["launches", "waits"] if on_gpu else [])], rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--atoms", type=int, default=38, help="atoms of a slab (default: 38)")
    parser.add_argument("--batch-size", type=int, default=1, help="slabs in a batch (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (default: 2)")
    parser.add_argument("--repeats", type=int, help="number of turns (default: 5, with a GPU 1)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        default=MODELS,
        metavar="MODEL",
        help=f"of {', '.join(MODELS)} (default: all)",
    )
    parser.add_argument(
        "--calls",
        nargs="+",
        choices=["inference", "training"],
        default=["inference", "training"],
        help="kinds of calls (default: both)",
    )
    add_arguments(parser)
    parser.add_argument("--cuda-graphs", action="store_true", help="set cuda_graphs: True in our models")
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON file (default: docs/results/speed.json, with a GPU speed-cuda.json)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    try:
        check_arguments(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.repeats = args.repeats or (5 if args.device == "cpu" else 1)
    path, records = results_path(args, RESULTS), []
    for models in groups(args.models):
        records += measure_together(models, args)
        write_json(path, records)
    print(results_table(records))
    for precision, field in {args.precision: RATES[1], "float32": RATES[0]}.items():
        rates = [record[field] / 1e9 for record in records]
        print(f"products in {precision}: {min(rates):.0f} to {max(rates):.0f} GFLOP/s")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
