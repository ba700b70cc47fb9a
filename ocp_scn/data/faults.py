"""What makes a frame unfit for training."""

from __future__ import annotations

import numpy as np
from ase.neighborlist import neighbor_list

from ocp_scn.data.frames import Frame
from ocp_scn.data.labels import RELAXED_TARGETS, virial_fault
from ocp_scn.fairchem.systems import boundary_fault

_CHECKED_TARGETS = (*RELAXED_TARGETS, "stress")


def find_fault(
    frame: Frame, *, max_num_elements: int, min_distance: float, labels: bool = True
) -> str | None:
    """Return what makes a frame unfit for training, or None.

    Args:
        frame: the frame.
        max_num_elements: atomic numbers have to be below this.
        min_distance: atoms closer than this overlap, Å.
        labels: it needs energy and forces.
    """
    atoms = frame.atoms
    if len(atoms) == 0:
        return "no atoms"
    arrays = {
        "energy": frame.energy,
        "forces": frame.forces,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
    }
    arrays |= {name: frame.targets[name] for name in _CHECKED_TARGETS if name in frame.targets}
    for name, values in arrays.items():
        if values is None:
            if labels:
                return f"no {name}"
            continue
        if not np.isfinite(values).all():
            return f"not finite: {name}"
    if atoms.numbers.max() >= max_num_elements:
        return f"element {atoms.numbers.max()} is beyond {max_num_elements - 1}"
    fault = boundary_fault(atoms)
    if fault is None and len(neighbor_list("i", atoms, min_distance)) > 0:
        return "atoms overlap"
    return fault or virial_fault(atoms, frame.targets)
