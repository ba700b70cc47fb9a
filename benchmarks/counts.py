"""Figures without noise: ``python -m benchmarks.counts``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import forward_flops
from benchmarks.models import SCN, VARIANTS, build, predict
from benchmarks.store import ROOT, table, write_json
from benchmarks.structures import slabs

RESULTS = ROOT / "docs/results/counts.json"
COLUMNS = {
    "flops": "GFLOP a forward",
    "forward_calls": "operator calls, forward",
    "backward_calls": "backward",
    "saved_bytes_per_edge_and_layer": "bytes saved an edge and layer",
    "allocated_bytes_at_inference": "MiB allocated at inference",
}
EPILOG = """example:
  python -m benchmarks.counts
Counts for the published models on one slab of 38 atoms. They are the same on every machine that has compiled
the kernels, so a change that makes the code slower or larger shows without a timing. A kernel counts as one
operator call, that of its result's memory."""


class CallCounter(TorchDispatchMode):
    """Counts operator calls, and the bytes of the new tensors that they return."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        new = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        new = [t for t in new if t.untyped_storage()._cdata not in known]
        self.calls += bool(new)  # views and changes in place are not counted
        self.bytes += sum(t.untyped_storage().nbytes() for t in new)
        return out


@torch.backends.mkldnn.flags(enabled=False)  # which is taken for products on some processors only
def count(variant: str, *, num_atoms: int = 38, **changes: Any) -> dict[str, float]:
    """Return the counts of a published model, or of one with other settings."""
    model, batch = build(f"ours {variant}", **changes), slabs(num_atoms)
    graph = model._graph(batch)
    with torch.no_grad():
        predict(model.eval(), batch)  # with tables that are made once a process
        with CallCounter() as at_inference:
            predict(model, batch)
    # The counter knows torch's operators only, so that rotations have to be products of matrices.
    with torch.no_grad(), kernels.disabled(), FlopCounterMode(display=False) as counter:
        predict(model, batch)

    kept: dict[int, int] = {}
    parameters = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}

    def note(t: Tensor) -> Tensor:
        if t.untyped_storage()._cdata not in parameters:
            kept[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), CallCounter() as forward:
        energy, forces = predict(model.train(), batch)
        loss = energy.sum() + forces.sum()
    with CallCounter() as backward:
        loss.backward()
    flops = sum(forward_flops(model.config, graph, len(batch.pos), training=False).values())
    return {
        "flops": flops / 1e9,
        "counted_flops": counter.get_total_flops() / 1e9,
        "forward_calls": forward.calls,
        "backward_calls": backward.calls,
        "saved_bytes_per_edge_and_layer": sum(kept.values())
        / len(graph.source)
        / model.config.num_interactions,
        "allocated_bytes_at_inference": at_inference.bytes / 2**20,
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counts",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    found = {variant: count(variant) for variant in VARIANTS}
    rows = [[variant, *(figures[key] for key in COLUMNS)] for variant, figures in found.items()]
    print(f"L = {SCN['lmax']}, {SCN['num_interactions']} layers, H = {SCN['hidden_channels']}, 38 atoms\n")
    print(table(["model", *COLUMNS.values()], rows))
    write_json(args.results, found)
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
