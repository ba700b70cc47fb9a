"""Calculations from which a small model learns enough to help with a few others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import fcc100, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ocp_scn import SCNCalculator
from ocp_scn.data.__main__ import main as data_command

MODEL = {
    "lmax": 2,
    "num_interactions": 2,
    "sphere_channels": 16,
    "sphere_channels_reduce": 16,
    "hidden_channels": 32,
    "num_sphere_samples": 24,
}
RMSD = 0.87  # of both trainings


def slabs(make: Callable[..., Atoms], metals: list[str], count: int, seed: int, strain: float) -> list[Atoms]:
    """Return rattled slabs of eight atoms with EMT's energies and forces."""
    found = []
    for k in range(count):
        atoms = make(metals[k % len(metals)], (2, 2, 2), vacuum=5.0, periodic=True)
        atoms.set_cell(atoms.cell * [[strain], [strain], [1]], scale_atoms=True)
        atoms.rattle(0.08, seed=seed + k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"sid": f"{atoms.symbols[0]}{seed + k}"}
        found.append(atoms)
    return found


def write_data(folder: Path, kind: str) -> None:
    """Write the data sets ``many`` and ``few``; the few are of another, strained surface with a new metal."""
    data = {
        "many": slabs(fcc111, ["Cu", "Ni"], 160, 0, 1.0),
        "few": slabs(fcc100, ["Cu", "Ni", "Pd"], 10, 1000, 1.03),
    }
    for name, frames in data.items():
        ase.io.write(folder / f"{name}.extxyz", frames)
        words = ["convert", str(folder / f"{name}.extxyz"), str(folder / name), "--split", "val=0.2"]
        assert data_command([*words, "--format", kind]) == 0


def force_error(checkpoint: Path) -> float:
    """Return the mean absolute error of forces on slabs like the few that no training has seen, eV/Å."""
    frames = slabs(fcc100, ["Cu", "Ni", "Pd"], 24, 2000, 1.03)
    found = SCNCalculator(checkpoint, device="cpu").predict(frames)
    errors = [one["forces"] - atoms.get_forces() for one, atoms in zip(found, frames, strict=True)]
    return float(np.abs(np.concatenate(errors)).mean())
