"""Energies of a frame: without references, and as trainings read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ocp_scn.data.frames import Frame
from ocp_scn.data.labels import ENERGY_TARGETS
from ocp_scn.errors import InputError

# Trainings read energies in float32, whose numbers may not be further apart than this, eV.
_COARSEST = 1e-3


def shifted(frame: Frame, shift: float) -> Frame:
    """Return the frame with all its energies lowered by ``shift``, eV."""
    energies = {name: frame.targets[name] - shift for name in ENERGY_TARGETS if name in frame.targets}
    energy = None if frame.energy is None else frame.energy - shift
    return replace(frame, energy=energy, targets={**frame.targets, **energies})


def check_precision(frame: Frame) -> None:
    """Refuse a frame whose energies float32, in which trainings read them, does not hold.

    Raises:
        InputError: for the first such energy.
    """
    for name, energy in {"energy": frame.energy, **frame.targets}.items():
        if energy is None or name not in ("energy", *ENERGY_TARGETS):
            continue
        spacing = float(np.spacing(np.abs(np.float32(energy))))
        if spacing > _COARSEST:
            raise InputError(
                f"{frame.origin} has {name}={energy:.10g} eV, which trainings read in float32, in steps of "
                f"{spacing:.2g} eV; --references fit --subtract-references writes what is left without "
                "references"
            )
