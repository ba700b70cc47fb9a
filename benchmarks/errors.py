"""Measure the errors that each precision causes in energies and forces: ``python -m benchmarks.errors``."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.data import Batch

from benchmarks.models import VARIANTS, build
from benchmarks.store import ROOT, machine, table, write_json
from benchmarks.structures import slab, slabs
from benchmarks.turned import read_checkpoint
from ocp_scn import InputError, SphericalChannelNetwork
from ocp_scn.model import SCN
from ocp_scn.nn.products import float32_products

RESULTS = ROOT / "docs/results/errors.json"
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
RMSD = 2.887317180633545  # eV and eV/Å, of OC20's energies and forces as published models are normalised
ENERGY = RMSD  # eV, to which the random model is scaled
FORCES = 0.2  # eV/Å, likewise: a typical force on a free atom of OC20's relaxations
# Mean absolute errors of the published checkpoints on 30,000 structures of val-ID: eV and eV/Å.
PUBLISHED = {"t1-b1": (0.2439, 0.0216), "t4-b2": (0.2144, 0.0193)}
COLUMNS = {
    "model": "model",
    "precision": "precision",
    "energy": "energy [eV]",
    "energy_per_atom": "per atom [eV]",
    "of_energy_mae": "of the MAE",
    "forces": "force [eV/Å]",
    "forces_largest": "largest",
    "of_mean_force": "of the mean force",
    "of_force_mae": "of the MAE",
}
EPILOG = """examples:
  python -m benchmarks.errors --systems 2
  python -m benchmarks.errors --checkpoint best_checkpoint.pt --results errors.json
The models are the published ones with random weights, or a checkpoint of fairchem 1.10. Their energies and
forces of slabs with 38 atoms are compared with those of the same model in float64. Errors are mean absolute
errors; those of forces are of the components. "of the MAE" is the error divided by the mean absolute error of
the published checkpoint on OC20, which changes by this share at most. The readouts of random weights are
scaled so that energies and forces have the size of OC20's. "float16" is what fairchem's --amp computes.
On a CPU the products of TF32 and float16 are imitated: float32 multiplies rounded factors, and for float16
the result is rounded too. With --device cuda the GPU computes them."""

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.mm, _ATEN.bmm, _ATEN.addmm, _ATEN.baddbmm, _ATEN.mv, _ATEN.addmv)


class AsOnGPU(TorchDispatchMode):
    """Has a CPU compute products of float32 as GPUs do in TF32, or those of float16, with sums in float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func._overloadpacket not in _PRODUCTS:
            return func(*args, **kwargs)
        out, dtype = kwargs.pop("out", None), args[-1].dtype
        factors = [to_tf32(x.float()) for x in args[-2:]]  # those in float16 have no more than 10 bits
        result = func._overloadpacket(*(x.float() for x in args[:-2]), *factors, **kwargs).to(dtype)
        return result if out is None else out.copy_(result)


def to_tf32(x: Tensor) -> Tensor:
    """Return numbers of float32 with the lowest 13 of their 23 bits rounded off, ties to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@contextmanager
def computing(model: SCN, precision: str) -> Iterator[None]:
    """Have a float32 model compute with a precision within the block: its layers, or all in float16."""

    def of_layers(device: str) -> AbstractContextManager[Any]:
        if precision == "bfloat16":
            return torch.autocast(device, dtype=torch.bfloat16)
        if precision == "tf32":
            return float32_products("high") if device == "cuda" else AsOnGPU()
        return nullcontext()

    device = next(model.parameters()).device.type
    before: Any = model._precision
    model._precision = of_layers  # type: ignore[method-assign]
    try:
        with torch.backends.mkldnn.flags(enabled=precision == "bfloat16"), torch.no_grad():
            products = AsOnGPU() if precision == "float16" and device == "cpu" else nullcontext()
            with products, torch.autocast(device, torch.float16, enabled=precision == "float16"):
                yield
    finally:
        model._precision = before  # type: ignore[method-assign]


def trained_like(variant: str, scale: float = 1.5, **changes: Any) -> Any:
    """Return a model whose readouts give energies and forces of the size that trained models predict.

    Args:
        variant: of the published models.
        scale: factor of initial weight matrices; with 1.5 signals neither fade nor grow from layer to layer.
        changes: other settings.
    """
    model: Any = build(f"ours {variant}", **changes).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= scale
    model.energy_head.fc3.bias.data.zero_()  # an energy that has no rounding
    with torch.no_grad():
        found = model(slabs(38))
        model.energy_head.fc3.weight.data *= ENERGY / RMSD / float(found["energy"].abs())
        model.force_head.fc3.weight.data *= FORCES / RMSD / float(found["forces"].norm(dim=1).mean())
    return model


def errors(
    name: str, model: Any, units: tuple[float, float], *, num_systems: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Return the errors of each precision, in eV and eV/Å.

    Args:
        name: of the model.
        model: in float32.
        units: (eV, eV/Å) of an output 1.
        num_systems: slabs.
        device: to compute on.
    """
    batches = [Batch.from_data_list([slab((3, 3, 4), seed)]) for seed in range(num_systems)]
    atoms = torch.cat([batch.natoms for batch in batches])
    exact_model = copy.deepcopy(model).double()
    with torch.no_grad():
        energy, forces = joined([exact_model(in_float64(batch)) for batch in batches], units)
    model, found = model.to(device), []
    for precision in PRECISIONS:
        with computing(model, precision):
            outputs = [model(batch.clone().to(device)) for batch in batches]
        of_energy, of_forces = (a - b for a, b in zip(joined(outputs, units), (energy, forces), strict=True))
        record: dict[str, Any] = {
            "model": name,
            "precision": precision,
            "energy": float(of_energy.abs().mean()),
            "energy_per_atom": float((of_energy.abs() / atoms).mean()),
            "forces": float(of_forces.abs().mean()),
            "forces_largest": float(of_forces.abs().max()),
            "of_mean_force": float(of_forces.norm(dim=1).mean() / forces.norm(dim=1).mean()),
        }
        if name in PUBLISHED:
            energy_mae, force_mae = PUBLISHED[name]
            record |= {
                "of_energy_mae": record["energy"] / energy_mae,
                "of_force_mae": record["forces"] / force_mae,
            }
        found.append(record)
    return found


def joined(outputs: Sequence[dict[str, Tensor]], units: tuple[float, float]) -> list[Tensor]:
    """Return energies (B,), eV, and forces (A, 3), eV/Å, in float64."""
    return [
        unit * torch.cat([of_batch[key].double().cpu() for of_batch in outputs])
        for key, unit in zip(("energy", "forces"), units, strict=True)
    ]


def in_float64(batch: Any) -> Any:
    """Return a batch with positions and cell in float64."""
    batch = batch.clone()
    batch.pos, batch.cell = batch.pos.double(), batch.cell.double()
    return batch


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the table; shares are percentages."""
    rows = [[_text(key, record.get(key)) for key in COLUMNS] for record in records]
    return table(list(COLUMNS.values()), rows)


def _text(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{100 * value:.2g} %" if key.startswith("of_") else f"{value:.1e}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.errors",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--systems", type=int, default=4, help="number of slabs (default: 4)")
    parser.add_argument(
        "--scale", type=float, default=1.5, help="factor of random weight matrices (default: 1.5)"
    )
    parser.add_argument("--checkpoint", type=Path, help="file of trained weights, in place of random ones")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/errors.json)"
    )
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `InputError` for what the command cannot do."""
    if args.systems < 1:
        raise InputError(f"--systems {args.systems}; expected at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device")


def models(checkpoint: Path | None, scale: float) -> Iterator[tuple[str, Any, tuple[float, float]]]:
    """Yield name, model and units of each model to measure."""
    if checkpoint is None:
        for variant in VARIANTS:
            yield variant, trained_like(variant, scale), (RMSD, RMSD)
        return
    weights = read_checkpoint(checkpoint)
    model = SphericalChannelNetwork(**weights.settings).eval()
    model.load_state_dict(weights.state or {})
    yield checkpoint.stem, model, weights.units


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    try:
        check_arguments(args)
        records = [
            record
            for model in models(args.checkpoint, args.scale)
            for record in errors(*model, num_systems=args.systems, device=args.device)
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(results_table(records))
    common = {"systems": args.systems, "scale": args.scale, "device": args.device, "machine": machine()}
    write_json(args.results, {"records": records, **common})
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
