"""What each precision costs in energies and forces: ``python -m benchmarks.errors``."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch

from benchmarks.models import VARIANTS, build
from benchmarks.store import ROOT, machine, table, write_json
from benchmarks.structures import slab, slabs
from ocp_scn.model import SCN

RESULTS = ROOT / "docs/results/errors.json"
PRECISIONS = ("float32", "tf32", "bfloat16")
RMSD = 2.887317180633545  # eV and eV/Å, of OC20's energies and forces as published models are normalised
FORCES = (
    0.2  # eV/Å, a typical force on a free atom of OC20's relaxations, to which the random model is scaled
)
COLUMNS = ["model", "precision", "energy, relative", "force, mean [eV/Å]", "largest", "relative"]
EPILOG = """example:
  python -m benchmarks.errors
Energies and forces of slabs with 38 atoms, by the published models with random weights, are compared with
those of float64. The readout of forces is scaled to those of OC20's relaxations. "tf32" is what GPUs compute:
the factors of products are rounded to its 10 bits. "relative" is the mean error over the mean size."""

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


class RoundedFactors(TorchDispatchMode):
    """Rounds the factors of matrix products to TF32: to the nearest number with 10 bits after the point."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            args = tuple(to_tf32(x) for x in args)
        return func(*args, **(kwargs or {}))


def to_tf32(x: Tensor) -> Tensor:
    """Return numbers of float32 with the lowest 13 of their 23 bits rounded off, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@contextmanager
def computing(model: SCN, precision: str) -> Iterator[None]:
    """Have a float32 model's layers compute with a precision within the block."""

    def of_layers(device: str) -> AbstractContextManager[Any]:
        if precision == "tf32":
            return RoundedFactors()
        return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")

    before: Any = model._precision
    model._precision = of_layers  # type: ignore[method-assign]
    try:
        with torch.backends.mkldnn.flags(enabled=precision == "bfloat16"), torch.no_grad():
            yield
    finally:
        model._precision = before  # type: ignore[method-assign]


def trained_like(variant: str, **changes: Any) -> Any:
    """Return a model with readouts that give forces of the size that trained models predict."""
    model = build(f"ours {variant}", **changes).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 1.5  # so that signals neither fade nor grow from layer to layer
    with torch.no_grad():
        forces = model(slabs(38))["forces"] * RMSD
        model.force_head.fc3.weight.data *= FORCES / float(forces.norm(dim=1).mean())
    return model


def errors(variant: str, *, num_systems: int, **changes: Any) -> list[dict[str, Any]]:
    """Return the errors of each precision, in eV and eV/Å."""
    model = trained_like(variant, **changes)
    batches = [Batch.from_data_list([slab((3, 3, 4), seed)]) for seed in range(num_systems)]
    exact_model = copy.deepcopy(model).double()
    with torch.no_grad():
        exact = [exact_model(in_float64(batch)) for batch in batches]
    found = []
    for precision in PRECISIONS:
        with computing(model, precision):
            outputs = [model(batch) for batch in batches]
        energies, forces = (
            [(o[key].double() - e[key]) for o, e in zip(outputs, exact, strict=True)]
            for key in ("energy", "forces")
        )
        of_energy, energy = (torch.cat(x).abs() for x in (energies, [e["energy"] for e in exact]))
        of_forces, size = (RMSD * torch.cat(x).norm(dim=1) for x in (forces, [e["forces"] for e in exact]))
        found.append(
            {
                "model": variant,
                "precision": precision,
                "energy_relative": float(of_energy.mean() / energy.mean()),
                "forces": float(of_forces.mean()),
                "forces_largest": float(of_forces.max()),
                "relative": float(of_forces.mean() / size.mean()),
            }
        )
    return found


def in_float64(batch: Any) -> Any:
    """Return a batch with positions and cell in float64."""
    batch = batch.clone()
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    return batch


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.errors",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--systems", type=int, default=4, help="slabs of each model (default: 4)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    records = [r for variant in VARIANTS for r in errors(variant, num_systems=args.systems)]
    rows = [[value if isinstance(value, str) else f"{value:.1e}" for value in r.values()] for r in records]
    print(table(COLUMNS, rows))
    write_json(args.results, {"records": records, "machine": machine()})
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
