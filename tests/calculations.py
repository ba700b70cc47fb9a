"""Calculations of a user: frames with energies and forces, in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

MOLECULES = ("H2O", "CO", "N2", "CH4")
LABELS = ("energy", "forces")


def calculation(number: int, *, periodic: bool = True, labels: tuple[str, ...] = LABELS) -> Atoms:
    """Return a rattled crystal of copper and gold, or molecule, with EMT's labels."""
    rng = np.random.default_rng(number)
    atoms = bulk("Cu", cubic=True) if periodic else molecule(MOLECULES[number % len(MOLECULES)])
    if periodic:
        atoms.numbers[: number % 3] = 79
    atoms.rattle(0.1, rng=rng)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **{name: results[name] for name in labels})
    return atoms


def write_calculations(path: Path, frames: int, *, systems: int = 0, **kind: object) -> Path:
    """Write frames of so many systems, or of none by name, and return the path."""
    found = [calculation(number, **kind) for number in range(frames)]
    for number, atoms in enumerate(found if systems else []):
        atoms.info |= {"sid": f"system{number % systems}", "fid": number // systems}
    write(path, found)
    return path
