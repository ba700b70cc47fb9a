"""What makes a frame unfit for training."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ocp_scn.data.frames import Frame
from ocp_scn.data.labels import RELAXED_TARGETS, virial_fault
from ocp_scn.fairchem.structures import structure_fault

_CHECKED_TARGETS = (*RELAXED_TARGETS, "stress")


def find_fault(
    frame: Frame,
    *,
    max_num_elements: int,
    min_distance: float,
    needed: Collection[str] = ("energy", "forces"),
) -> str | None:
    """Return what makes a frame unfit for training, or None.

    Args:
        frame: the frame.
        max_num_elements: atomic numbers have to be below this.
        min_distance: atoms closer than this overlap, Å.
        needed: the labels that it has to have.
    """
    fault = structure_fault(frame.atoms, max_num_elements=max_num_elements, min_distance=min_distance)
    if fault is not None:
        return fault
    labelled = {"energy": frame.energy, "forces": frame.forces}
    targets = {name: frame.targets[name] for name in _CHECKED_TARGETS if name in frame.targets}
    for name, values in {**labelled, **targets}.items():
        if values is None:
            if name in needed:
                return f"no {name}"
            continue
        if not np.isfinite(values).all():
            return f"not finite: {name}"
    return virial_fault(frame.atoms, frame.targets)
