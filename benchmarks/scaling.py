"""Measure time and memory by number of atoms, batch size and ranks: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common.utils import radius_graph_pbc
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks.devices import CPU, add_arguments, check_arguments, device_of, results_path
from benchmarks.models import SCN, VARIANTS, build, train_step
from benchmarks.process import measure
from benchmarks.store import ROOT, machine, read_json, table, write_json
from benchmarks.structures import slabs
from ocp_scn.errors import InputError

RESULTS = ROOT / "docs/results/scaling.json"
EPILOG = """example:
  python -m benchmarks.scaling --atoms 50 200 2000 --batch-sizes 1 4 --ranks 1 2
Each measurement runs in a process of its own. Times are medians, and memory is measured as in
benchmarks.speed. The results are written after each of the three series. Each rank has one thread and a batch
of its own; ranks exchange gradients through gloo."""


def of_processes(call: str, args: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """Return what several processes, one after another, measure of our model: the median of their seconds."""
    settings |= {"threads": args.threads, "device": args.device, "precision": args.precision}
    turns = [measure(f"ours {args.variant}", call, **settings) for _ in range(args.repeats)]
    seconds = float(np.median([turn["seconds"] for turn in turns]))
    return {"call": call, **settings, **turns[0], "seconds": seconds}


def fairchem_graph_seconds(num_atoms: int, device: str) -> float:
    """Return the time that fairchem's search takes for the graph of a slab."""
    on = device_of(device)
    batch = slabs(num_atoms).to(on.device)
    batch.pbc = batch.pbc.view(1, 3)
    radius, most = SCN["cutoff"], SCN["max_num_neighbors"]
    return on.seconds(lambda: radius_graph_pbc(batch, radius, most, enforce_max_neighbors_strictly=True))


def by_atoms(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return inference of one slab, for each number of atoms."""
    records = []
    for atoms in args.atoms:
        record = of_processes("inference", args, atoms=atoms)
        record["fairchem_graph_seconds"] = fairchem_graph_seconds(atoms, args.device)
        records.append(record)
    return records


def by_batch_size(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return inference and training steps of slabs of one size, for each batch size."""
    return [
        of_processes(call, args, atoms=args.size, batch_size=size)
        for call in ("inference", "training")
        for size in args.batch_sizes
    ]


def by_ranks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return training steps on one slab a rank, for each number of ranks."""
    records = []
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_train_rank, (ranks, folder, args), nprocs=ranks)
            (seconds,) = read_json(Path(folder) / "seconds.json")
        records.append({"call": "training", "ranks": ranks, "seconds": seconds})
    return records


def _train_rank(rank: int, ranks: int, folder: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    model, batch = DistributedDataParallel(build(f"ours {args.variant}")), slabs(args.size)
    train_step(model, batch)
    seconds = []
    for _ in range(args.repeats):
        distributed.barrier()
        seconds.append(CPU().seconds(lambda: train_step(model, batch)))
    if rank == 0:
        write_json(Path(folder) / "seconds.json", [float(np.median(seconds))])
    distributed.barrier()
    distributed.destroy_process_group()


def results_tables(found: dict[str, Any]) -> str:
    """Return a table for each of the three series."""
    atoms = [
        [
            r["atoms"],
            r["edges"],
            r["seconds"],
            1e3 * r["seconds"] / r["atoms"],
            r["bytes"] / 2**20,
            r["graph_seconds"],
            r["fairchem_graph_seconds"],
        ]
        for r in found["atoms"]
    ]
    batches = [
        [r["call"], r["batch_size"], r["seconds"], r["seconds"] / r["batch_size"], r["bytes"] / 2**20]
        for r in found["batch_size"]
    ]
    alone = found["ranks"][0] if found["ranks"] else {}
    ranks = [
        [r["ranks"], r["seconds"], r["ranks"] / alone["ranks"] * alone["seconds"] / r["seconds"]]
        for r in found["ranks"]
    ]
    columns = ["atoms", "edges", "seconds", "ms per atom", "MiB", "seconds for the graph", "fairchem's graph"]
    return "\n".join(
        [
            table(columns, atoms),
            table(["call", "batch size", "seconds", "seconds per system", "MiB"], batches),
            table(["ranks", "seconds per step", "times the systems per second"], ranks),
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    numbers: dict[str, Any] = {"type": int, "nargs": "*", "metavar": "N"}
    parser.add_argument(
        "--atoms",
        **numbers,
        default=[50, 100, 200, 500, 1000, 2000],
        help="numbers of atoms of a slab, roughly",
    )
    parser.add_argument(
        "--batch-sizes", **numbers, default=[1, 2, 4, 8], help="numbers of systems in a batch"
    )
    parser.add_argument("--ranks", **numbers, help="numbers of ranks of a training on CPUs (default: 1 2)")
    parser.add_argument(
        "--size",
        type=int,
        default=38,
        help="atoms of a system in the series of batches and ranks (default: %(default)s)",
    )
    parser.add_argument(
        "--variant", choices=list(VARIANTS), default="t1-b1", help="published model (default: t1-b1)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads, except of ranks (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="repeats of each measurement (default: %(default)s)"
    )
    add_arguments(parser)
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON file (default: docs/results/scaling.json, with a GPU scaling-cuda.json)",
    )
    return parser


def _check(args: argparse.Namespace) -> None:
    check_arguments(args)
    if args.ranks and args.device == "cuda":
        raise InputError("--ranks with --device cuda: ranks are measured on CPUs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    try:
        _check(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.ranks is None:
        args.ranks = [1, 2] if args.device == "cpu" else []
    path = results_path(args, RESULTS)
    found: dict[str, Any] = {}
    for name, series in (("atoms", by_atoms), ("batch_size", by_batch_size), ("ranks", by_ranks)):
        found[name] = series(args)
        facts = {**machine(args.device), "variant": args.variant, "precision": args.precision}
        write_json(path, {**facts, **found})
    print(results_tables(found))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
