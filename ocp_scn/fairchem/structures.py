"""ASE's structures before fairchem casts them to float32: where they are, and what is wrong with them."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ocp_scn.fairchem.images import coincidence, image_fault
from ocp_scn.fairchem.systems import Systems, cell_fault, farthest

# Float32 holds coordinates up to here to 8e-6 Å.
_NEAR = 128.0


def near_origin(atoms: Atoms) -> Atoms:
    """Return atoms near the origin if they are far away and not periodic everywhere, others as they are.

    Float32 has few digits left far from the origin. fairchem wraps atoms along periodic directions
    itself. The atoms are moved by a whole number of Å, as one; results that they have stay.
    """
    if len(atoms) == 0 or atoms.pbc.all() or not np.isfinite(atoms.positions).all():
        return atoms
    middle = np.round((atoms.positions.min(axis=0) + atoms.positions.max(axis=0)) / 2)
    if np.abs(middle).max() <= _NEAR:
        return atoms
    moved = atoms.copy()
    moved.calc = atoms.calc
    moved.positions -= middle
    return moved


def place_fault(atoms: Atoms) -> str | None:
    """Return why atoms' positions and cell are none that fairchem can wrap and a model compute, or None."""
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            return f"not finite: {name}"
    limit = farthest(np.float64)
    if np.abs(atoms.positions).max(initial=0) > limit:
        return f"positions beyond {limit:.0e} Å"
    return cell_fault(_complete(atoms), atoms.pbc)


def structure_fault(atoms: Atoms, *, max_num_elements: int, min_distance: float) -> str | None:
    """Return why a structure is none for a data set, or None.

    Args:
        atoms: positions and cell in Å.
        max_num_elements: atomic numbers have to be below this.
        min_distance: atoms closer than this overlap, Å.
    """
    if len(atoms) == 0:
        return "no atoms"
    fault = place_fault(atoms)
    if fault is not None:
        return fault
    lowest, highest = atoms.numbers.min(), atoms.numbers.max()
    if lowest < 0 or highest >= max_num_elements:
        return (
            f"element {lowest} is below 0"
            if lowest < 0
            else f"element {highest} is beyond {max_num_elements - 1}"
        )
    systems = system_of(atoms)
    limit = farthest(np.float32)
    if np.ptp(systems.pos, axis=0).max() > limit:
        return f"atoms further apart than {limit:.1e} Å"
    found = image_fault(systems, min_distance)
    if found is not None or coincidence(systems, min_distance) is None:
        return found and found[1]
    return "atoms overlap"


def system_of(atoms: Atoms) -> Systems:
    """Return atoms that `place_fault` finds nothing wrong with as one system, inside its cell."""
    return Systems(
        pos=atoms.positions,
        cell=_complete(atoms)[None],
        natoms=np.array([len(atoms)]),
        periodic=atoms.pbc[None],
        moved=np.zeros((len(atoms), 3), dtype=np.int64),
    ).wrapped()


def _complete(atoms: Atoms) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a third vector for two parallel ones
        return np.asarray(atoms.cell.complete().array)
