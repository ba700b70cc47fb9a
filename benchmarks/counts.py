"""Count operations, memory and operators of the published models: ``python -m benchmarks.counts``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.calls import OperatorCounter, counted
from benchmarks.devices import CUDA, add_arguments, check_arguments, float32_products, results_path
from benchmarks.flops import FORMULAS, needed_flops
from benchmarks.models import SCN, VARIANTS, build, loss_of, predict
from benchmarks.process import build_in, calls_in
from benchmarks.store import ROOT, machine, table, write_json
from benchmarks.structures import slabs
from ocp_scn.errors import InputError
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.fairchem.search import comparing_all
from ocp_scn.nn.message_vjp import MAX_REPEATED
from ocp_scn.ops.chunks import as_if, gpu_sizes

RESULTS = ROOT / "docs/results/counts.json"
COLUMNS = {
    "flops": "GFLOP per forward pass",
    "saved_bytes_per_edge_and_layer": "bytes saved per edge and layer",
    "allocated_bytes_at_inference": "MiB allocated at inference",
}
CALLS = {"inference": "inference", "training": "training step"}
EPILOG = """example:
  python -m benchmarks.counts
Counts are the same on every machine that has the compiled kernels. So they show without timings whether a
change makes the code slower or larger. Operations and memory are counted on a CPU, for one slab of 38 atoms.
Operators are counted for a batch of 8 slabs of 66 atoms, with the code that a GPU runs, where each operator
is at least one launch. Views are not counted, and an operator of this package counts once. Waits are
operators that make the host wait for the GPU. A training step is a forward pass, a loss of energies and
forces, and a backward pass. With --device cuda, the command counts launches and waits of the same batch on
the GPU instead."""

# The batch whose operators are counted: atoms of a slab, slabs.
BATCH = 66, 8
# Operators do not depend on these widths, but for what is kept of wide messages for the backward pass.
NARROW = {
    "sphere_channels": 8, "sphere_channels_reduce": 8, "num_basis_functions": 8, "num_sphere_samples": 8,
    "hidden_channels": MAX_REPEATED + 8,
}  # fmt: skip


def count(variant: str, *, num_atoms: int = 38, **changes: Any) -> dict[str, float]:
    """Return the operations and bytes of a published model on a CPU, or of one with other settings."""
    with torch.backends.mkldnn.flags(enabled=False):  # taken for products on some processors only
        return _count(build(f"ours {variant}", **changes), slabs(num_atoms))


def _count(model: Any, batch: Any) -> dict[str, float]:
    graph = batch_graph(batch, model.config)
    with torch.no_grad():
        predict(model.eval(), batch)  # with tables that are made once a process
        with counted() as at_inference:
            predict(model, batch)
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            predict(model, batch)

    kept: dict[int, int] = {}
    parameters = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}

    def note(t: Tensor) -> Tensor:
        if t.untyped_storage()._cdata not in parameters:
            kept[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        energy, forces = predict(model.train(), batch)
        loss = energy.sum() + forces.sum()  # alive, or what it saved might lend its address
    saved = sum(kept.values()) / len(graph.source) / model.config.num_interactions
    del loss
    return {
        "flops": needed_flops(model.config, graph, len(batch.pos), training=False) / 1e9,
        "counted_flops": counter.get_total_flops() / 1e9,
        "saved_bytes_per_edge_and_layer": saved,
        "allocated_bytes_at_inference": at_inference.bytes / 2**20,
    }


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Have a CPU call the operators within the block that a GPU would be called with."""
    with (
        torch.backends.mkldnn.flags(enabled=False),
        as_if(gpu_sizes(70 * 2**30)),
        comparing_all(),
    ):
        yield


def count_operators(variant: str, **changes: Any) -> dict[str, dict[str, dict[str, int]]]:
    """Return the operators and waits of a published model, as on a GPU.

    Returns:
        for inference and a training step, ``operators`` and ``waits``, each from the ``batch`` and from the
        ``graph`` to the predictions.
    """
    model: Any = build(f"ours {variant}", **{**NARROW, **changes})
    batch = slabs(BATCH[0], BATCH[1])
    found = {}
    with as_on_a_gpu():
        x = model._input(batch, None)
        starts: dict[str, Callable[[], Any]] = {
            "batch": partial(predict, model, batch),
            "graph": partial(model._energy, x),
        }
        for call in CALLS:
            model.train(call == "training")
            run_call(model, starts["graph"], call)  # with tables that are made once a process
            counters = {start: count_call(model, predictions, call) for start, predictions in starts.items()}
            found[call] = {
                "operators": {start: sum(c.calls.values()) for start, c in counters.items()},
                "waits": {start: sum(c.waits.values()) for start, c in counters.items()},
            }
    return found


def count_call(model: nn.Module, predictions: Callable[[], Any], call: str) -> OperatorCounter:
    """Return the counts of one call, which makes a model's predictions for inference or a training step."""
    model.zero_grad(set_to_none=True)
    with counted() as counter:
        run_call(model, predictions, call)
    return counter


def run_call(model: nn.Module, predictions: Callable[[], Any], call: str) -> None:
    """Make a model's predictions, and in training the gradients of a loss."""
    with torch.set_grad_enabled(call == "training"):
        energy, forces = predictions()
        if call == "training":
            loss_of(energy, forces).backward()


def count_on_gpu(variant: str, precision: str) -> dict[str, dict[str, int]]:
    """Return the launches and waits of a published model on a GPU, for inference and a training step."""
    on, batch, found = CUDA(), slabs(BATCH[0], BATCH[1]), {}
    model, batch = build_in(precision, f"ours {variant}").to(on.device), batch.to(on.device)
    with float32_products(precision):
        for call, run in calls_in(precision, model, on, autocast=False).items():
            model.train(call == "training")
            for _ in range(3):  # kernels are compiled, and tables made, in the first
                run(batch)
            found[call] = on.calls(partial(run, batch))
    return found


def results_tables(found: dict[str, dict[str, Any]]) -> str:
    """Return the tables of what `count` and `count_operators` found."""
    rows = [[variant, *(figures[key] for key in COLUMNS)] for variant, figures in found.items()]
    calls = [
        [
            variant,
            title,
            *(figures[call][kind][start] for kind in ("operators", "waits") for start in ("batch", "graph")),
        ]
        for variant, figures in found.items()
        for call, title in CALLS.items()
    ]
    columns = ["model", "call", "operators", "of them from the graph on", "waits", "from the graph on"]
    return table(["model", *COLUMNS.values()], rows) + "\n" + table(columns, calls)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON file (default: docs/results/counts.json, with a GPU counts-cuda.json)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    try:
        _check(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = results_path(args, RESULTS)
    print(f"L = {SCN['lmax']}, {SCN['num_interactions']} layers, H = {SCN['hidden_channels']}\n")
    found: dict[str, Any]
    if args.device == "cuda":
        found = {variant: count_on_gpu(variant, args.precision) for variant in VARIANTS}
        rows = [[v, CALLS[call], *figures.values()] for v in VARIANTS for call, figures in found[v].items()]
        print(table(["model", "call", "launches", "waits"], rows))
        found |= {**machine("cuda"), "precision": args.precision}
    else:
        found = {variant: {**count(variant), **count_operators(variant)} for variant in VARIANTS}
        print(results_tables(found))
    write_json(path, found)
    print(f"wrote {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    check_arguments(args)
    if args.device == "cpu" and args.precision != "float32":
        raise InputError(f"--precision {args.precision}: expected float32 with --device cpu")


if __name__ == "__main__":
    sys.exit(main())
