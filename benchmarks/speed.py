"""Time and memory beside other models: ``python -m benchmarks.speed``."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch

from benchmarks.flops import needed_flops
from benchmarks.models import VARIANTS, build, predict, train_step
from benchmarks.store import ROOT, machine, table, write_json
from benchmarks.structures import slab, slabs

RESULTS = ROOT / "docs/results/speed.json"
MODELS = [f"{kind} {variant}" for variant in VARIANTS for kind in ("ours", "fairchem")] + [
    "eSCN",
    "EquiformerV2",
]
EPILOG = """example:
  python -m benchmarks.speed --atoms 38 --threads 2
Every model has a process of its own for inference and one for training; those of one variant (and the other
models) take turns, so that a busy machine slows all alike. A turn is calls for at least two seconds, and one
more, which counts. Times are medians with the spread from the first to the third quartile. Memory is the peak
of the resident set in a first call, less what the loaded model (with its gradients, for a training step)
holds after a call with three atoms, which loads the libraries."""

WARM_SECONDS = 2.0


class Worker:
    """A process that holds one model for one kind of call and measures when told to.

    ``facts`` has what is known before: atoms, parameters, bytes at the peak of a first call, for our model
    also edges, needed operations and the seconds that its graph takes.
    """

    def __init__(
        self,
        model: str,
        call: str,
        *,
        atoms: int,
        batch_size: int = 1,
        threads: int = 2,
        dtype: str = "float32",
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.speed", "--models", model, "--worker", call]
        command += ["--atoms", str(atoms), "--batch-size", str(batch_size)]
        command += ["--threads", str(threads), "--dtype", dtype]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
        )
        self.facts = self._answer()

    def seconds(self) -> float:
        """Return the seconds of one call, the second of two."""
        assert self.process.stdin is not None
        self.process.stdin.write("call\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended with status {self.process.wait()}")
        return json.loads(line)


def work(model_name: str, what: str, args: argparse.Namespace) -> None:
    """Hold a model and answer requests on standard input; run in a process of its own."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes to standard error
    torch.set_num_threads(args.threads)
    changes = {} if args.dtype == "float32" else {"compute_dtype": args.dtype}
    model = build(model_name, **(changes if model_name.startswith("ours") else {}))
    batch = slabs(args.atoms, args.batch_size)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "atoms": len(batch.pos),
    }
    if model_name.startswith("ours"):
        model._graph(batch)
        start = time.perf_counter()
        graph = model._graph(batch)
        facts["graph_seconds"] = time.perf_counter() - start
        facts["flops"] = needed_flops(model.config, graph, len(batch.pos), training=False)
        facts["edges"] = len(graph.source)

    def infer(batch: Any) -> None:
        with torch.no_grad():
            predict(model.eval(), batch)

    def train(batch: Any, *, keep_gradients: bool = False) -> None:
        train_step(model.train(), batch, keep_gradients=keep_gradients)

    call = {"inference": infer, "training": train}[what]
    call(Batch.from_data_list([slab((1, 1, 1), 0)]))
    # With the gradients' memory freed at first, a step's peak would be that of its forward pass.
    beyond_gradients = partial(train, keep_gradients=True) if what == "training" else infer
    facts["bytes"] = peak_bytes(lambda: beyond_gradients(batch))
    call(batch)
    print(json.dumps(facts), file=answer, flush=True)
    for _ in sys.stdin:
        # While it waited for its turn, its memory has left the caches, or was even reclaimed.
        warm = time.perf_counter() + WARM_SECONDS
        call(batch)
        while time.perf_counter() < warm:
            call(batch)
        start = time.perf_counter()
        call(batch)
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answer, flush=True)


def peak_bytes(call: Callable[[], None]) -> int:
    """Return by how much a call raises the resident set, bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that the peak is this call's
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def matrix_product_rate() -> float:
    """Return the machine's floating-point operations a second in a large float32 matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a @ b
    start = time.perf_counter()
    for _ in range(4):
        a @ b
    return 4 * 2 * 2048**3 / (time.perf_counter() - start)


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record for each model and kind of call; models of one variant take turns."""
    variants = dict.fromkeys(model.partition(" ")[2] for model in args.models)
    groups = [[model for model in args.models if model.partition(" ")[2] == variant] for variant in variants]
    return [record for models in groups for record in measure_together(models, args)]


def measure_together(models: Sequence[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record for each of some models and kind of call, which take turns."""
    torch.set_num_threads(args.threads)
    rates: list[float] = []
    seconds: dict[tuple[str, str], list[float]] = {(m, c): [] for m in models for c in args.calls}
    workers: dict[tuple[str, str], Worker] = {}
    try:
        for model, what in seconds:
            workers[model, what] = Worker(
                model,
                what,
                atoms=args.atoms,
                batch_size=args.batch_size,
                threads=args.threads,
                dtype=args.dtype,
            )
        for _ in range(args.repeats):
            rates.append(matrix_product_rate())
            for key, values in seconds.items():
                values.append(workers[key].seconds())
    finally:
        for worker in workers.values():
            worker.close()
    rate = float(np.median(rates))
    records = []
    for (model, what), values in seconds.items():
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        record = {"model": model, "call": what, "seconds": median, "spread": [low, high]}
        record |= workers[model, what].facts
        if "flops" in record:  # a training step needs the forward's products and two for each of them
            record["fraction"] = record["flops"] * (1 if what == "inference" else 3) / median / rate
        records.append(record)
    facts = {**machine(), "matrix_product_rate": rate, "dtype": args.dtype, "batch_size": args.batch_size}
    facts["threads"] = args.threads
    return [{**record, **facts} for record in records]


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table, with ratios to fairchem's SCN where it was measured with the same settings."""
    by_name = {(r["model"], r["call"]): r for r in records}
    rows = []
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
            ]
        )
    columns = ["model", "call", "seconds", "times fairchem's speed", "MiB", "of fairchem's", "of the limit"]
    return table(columns, rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--atoms", type=int, default=38, help="of a slab (default: 38)")
    parser.add_argument("--batch-size", type=int, default=1, help="slabs in a batch (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="of each process (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument(
        "--calls", nargs="+", choices=["inference", "training"], default=["inference", "training"]
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="our compute_dtype"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--worker", choices=["inference", "training"], help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    if args.worker:
        work(args.models[0], args.worker, args)
        return 0
    records = measure_all(args)
    print(results_table(records))
    rates = dict.fromkeys(f"{record['matrix_product_rate'] / 1e9:.0f}" for record in records)
    print(f"matrix products: {', '.join(rates)} GFLOP/s on {args.threads} threads")
    write_json(args.results, records)
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
