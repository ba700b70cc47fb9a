"""Which atoms are fixed, and what of ASE's constraints a data set cannot say."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled

# Constraints of single atoms, whose forces they project; any other kind leaves every atom some way to move.
_OF_ATOMS = (FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled)
_HELD = 1e-9  # what is left of a unit force on an atom that is held, by rounding


def held_atoms(atoms: Atoms) -> np.ndarray:
    """Return which atoms (n,) constraints hold in all three directions: no force on them is left."""
    held = np.ones(len(atoms), dtype=bool)
    for direction in np.eye(3):
        forces = np.tile(direction, (len(atoms), 1))
        for constraint in atoms.constraints:
            if isinstance(constraint, _OF_ATOMS):
                constraint.adjust_forces(atoms, forces)
        held &= np.abs(forces).max(axis=1) < _HELD
    return held


def fix_held_atoms(atoms: Atoms, column: np.ndarray | None = None) -> list[str]:
    """Put ``FixAtoms`` for the atoms that are held in place of all constraints; change ``atoms``.

    Args:
        atoms: the structure with its constraints.
        column: (n,) atoms that are fixed too.

    Returns:
        The kinds of the constraints that more was held by than these atoms.
    """
    held = held_atoms(atoms)
    if column is not None:
        held |= column
    lost = {
        type(constraint).__name__
        for constraint in atoms.constraints
        if not isinstance(constraint, _OF_ATOMS) or not held[constraint.index].all()
    }
    atoms.set_constraint(FixAtoms(mask=held) if held.any() else None)
    return sorted(lost)
