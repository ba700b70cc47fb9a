"""Measure how well trained models conserve energy in dynamics: ``python -m benchmarks.dynamics``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.datasets import LmdbDataset

import ocp_scn
from benchmarks.store import ROOT, table, write_json

RESULTS = ROOT / "docs/results/dynamics.json"
COLUMNS = (
    "model",
    "system",
    "atoms",
    "drift [meV/atom/ps]",
    "noise [meV/atom]",
    "temperature [K]",
    "ms per step",
)
EPILOG = """example:
  python -m benchmarks.dynamics direct=runs/demo/checkpoints/train/best_checkpoint.pt \\
      smooth=runs/smooth/checkpoints/train/best_checkpoint.pt
Each model first runs each structure with a thermostat, which brings it to the temperature, and then without
one. The drift is the slope of a line through the total energy per moving atom. The noise is the standard
deviation of that energy from the line."""


def read_atoms(source: Path, index: int) -> Atoms:
    """Return a structure of an LMDB data set with its fixed atoms."""
    if not source.exists():
        raise ocp_scn.InputError(f"--data {source} does not exist")
    data_set = LmdbDataset({"src": str(source)})
    if index >= len(data_set):
        raise ocp_scn.InputError(f"--systems {index + 1}, but {source} has {len(data_set)}")
    data = data_set[index]
    atoms = Atoms(data.atomic_numbers.int().tolist(), data.pos.numpy(), cell=data.cell[0].numpy(), pbc=True)
    atoms.set_constraint(FixAtoms(mask=data.fixed.bool().tolist()))
    atoms.set_tags(data.tags.int().tolist())
    return atoms


def run_nve(
    atoms: Atoms, *, temperature: float, warm_up: float, duration: float, time_step: float, seed: int
) -> dict[str, Any]:
    """Bring ``atoms`` to a temperature, run dynamics at constant energy, and return drift and noise.

    Args:
        atoms: with a calculator.
        temperature: K.
        warm_up: length of the thermostatted run, ps.
        duration: length of the run at constant energy, ps.
        time_step: fs.
        seed: of velocities and thermostat.
    """
    rng = np.random.default_rng(seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    step = time_step * units.fs
    Langevin(atoms, step, temperature_K=temperature, friction=0.02 / units.fs, rng=rng).run(
        round(1000 * warm_up / time_step)
    )
    moving = len(atoms) - len(atoms.constraints[0].index)
    energies, temperatures = [], []

    def record() -> None:
        energies.append(atoms.get_total_energy())
        temperatures.append(2 * atoms.get_kinetic_energy() / (3 * moving * units.kB))

    search = VelocityVerlet(atoms, step)
    search.attach(record, interval=1)
    steps = round(1000 * duration / time_step)
    start = time.perf_counter()
    search.run(steps)
    seconds = time.perf_counter() - start
    times = np.arange(len(energies)) * time_step / 1000  # ps
    per_atom = 1000 * np.array(energies) / moving  # meV
    slope, offset = np.polyfit(times, per_atom, 1)
    return {
        "drift": float(slope),
        "noise": float((per_atom - slope * times - offset).std()),
        "temperature": float(np.mean(temperatures)),
        "milliseconds": 1000 * seconds / steps,
        "moving_atoms": moving,
        "picoseconds": duration,
        "time_step": time_step,
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dynamics",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=CHECKPOINT", help="checkpoints to compare, under these names"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("datasets/sample/is2re/test"),
        help="LMDB folder of structures (default: %(default)s)",
    )
    parser.add_argument(
        "--systems", type=int, default=2, help="number of structures, from the first (default: 2)"
    )
    parser.add_argument("--temperature", type=float, default=300.0, help="temperature, K (default: 300)")
    parser.add_argument(
        "--ps", type=float, default=2.0, help="length of the run at constant energy, ps (default: 2)"
    )
    parser.add_argument(
        "--warm-up", type=float, default=0.5, help="length of the run with a thermostat, ps (default: 0.5)"
    )
    parser.add_argument("--time-step", type=float, default=1.0, help="time step, fs (default: 1)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="JSON file (default: docs/results/dynamics.json)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    try:
        models = dict(parse_model(text) for text in args.models)
        structures = [read_atoms(args.data, index) for index in range(args.systems)]
    except ocp_scn.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    records = []
    for name, checkpoint in models.items():
        calculator = OCPCalculator(checkpoint_path=checkpoint, cpu=not torch.cuda.is_available(), seed=0)
        for index, structure in enumerate(structures):
            atoms = structure.copy()
            atoms.calc = calculator
            figures = run_nve(
                atoms,
                temperature=args.temperature,
                warm_up=args.warm_up,
                duration=args.ps,
                time_step=args.time_step,
                seed=index,
            )
            records.append({"model": name, "system": str(atoms.symbols), "atoms": len(atoms), **figures})
    rows = [
        [r["model"], r["system"], r["atoms"], r["drift"], r["noise"], r["temperature"], r["milliseconds"]]
        for r in records
    ]
    print(table(COLUMNS, rows))
    write_json(args.results, records)
    print(f"wrote {args.results}")
    return 0


def parse_model(text: str) -> tuple[str, Path]:
    """Return the name and the file of NAME=CHECKPOINT."""
    name, _, path = text.partition("=")
    if not path or not Path(path).is_file():
        raise ocp_scn.InputError(f"model {text!r}; expected NAME=CHECKPOINT with a file that exists")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
