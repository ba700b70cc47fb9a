"""Energy, forces and other targets of a structure, under the names that its source gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from ocp_scn.errors import UnreadableError, shown

ENERGY_TARGETS = ("y_init", "y_relaxed", "energy_relaxed")
RELAXED_TARGETS = (*ENERGY_TARGETS, "pos_relaxed")
VIRIALS = ("virial", "virials")
# A source rounds its stress and its virial apart; the other sign, or another unit, is no rounding.
_RELATIVE, _ABSOLUTE = 0.01, 1e-4


@dataclass(frozen=True)
class LabelKeys:
    """What a source calls the labels; a ``stress`` with "virial" in its name is a virial in eV."""

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"


@dataclass(frozen=True)
class Labels:
    """What a source says of a structure, its positions apart.

    Attributes:
        energy: eV, or None.
        forces: (n, 3) eV/Å, or None.
        targets: ``stress`` (6,) eV/Å³ in ASE's order and sign, ``pos_relaxed`` (n, 3) Å, energies in eV; and
            ``virial`` (6,) eV where it is no stress, for `virial_fault` to say why.
        others: names of what is none of these.
    """

    energy: float | None
    forces: np.ndarray | None
    targets: dict[str, Any]
    others: tuple[str, ...]


def read_labels(known: Mapping[str, Any], atoms: Atoms, keys: LabelKeys, origin: str) -> Labels:
    """Return the labels among all that a source says of a structure.

    Args:
        known: values by their names.
        atoms: the structure.
        keys: names of the labels.
        origin: file and position in it, for messages.

    Raises:
        UnreadableError: for a label that is not numbers of its shape.
    """
    known = {name: value for name, value in known.items() if value is not None}
    used = {keys.energy, keys.forces, *RELAXED_TARGETS, *_stress_names(keys)}

    def numbers(name: str, *shape: int) -> np.ndarray | None:
        return _numbers(known[name], name, origin, shape) if name in known else None

    energy = numbers(keys.energy)
    of_systems = {name: numbers(name) for name in ENERGY_TARGETS}
    targets = {name: value.item() for name, value in of_systems.items() if value is not None}
    relaxed = numbers("pos_relaxed", len(atoms), 3)
    if relaxed is not None:
        targets["pos_relaxed"] = relaxed
    tensors = {name: _voigt(known[name], name, origin) for name in _stress_names(keys) if name in known}
    return Labels(
        energy=None if energy is None else energy.item(),
        forces=numbers(keys.forces, len(atoms), 3),
        targets=targets | _stress(tensors, atoms.cell.volume),
        others=tuple(name for name in known if name not in used),
    )


def virial_fault(atoms: Atoms, targets: Mapping[str, Any]) -> str | None:
    """Return why a ``virial`` among the targets is no stress, or None where there is no virial."""
    if "virial" not in targets:
        return None
    if atoms.cell.volume == 0:
        return "a virial without a cell, whose volume would make it a stress"
    return "a stress that is not -virial/volume; --leave-out virial or stress keeps the other"


def _stress_names(keys: LabelKeys) -> tuple[str, ...]:
    """Return where a stress may come from: the name that was given, else ASE's and those of virials."""
    return (keys.stress, *VIRIALS) if keys.stress == LabelKeys.stress else (keys.stress,)


def _stress(tensors: Mapping[str, np.ndarray], volume: float) -> dict[str, np.ndarray]:
    """Return the ``stress`` of the source, or of its virial, and a ``virial`` that fits no stress."""
    stress = next((value for name, value in tensors.items() if "virial" not in name.lower()), None)
    virial = next((value for name, value in tensors.items() if "virial" in name.lower()), None)
    found = {} if stress is None else {"stress": stress}
    if virial is None:
        return found
    if volume == 0:
        return found | {"virial": virial}
    if stress is None:
        return {"stress": -virial / volume}
    close = np.allclose(stress, -virial / volume, rtol=_RELATIVE, atol=_ABSOLUTE)
    return found if close else found | {"virial": virial}


def _voigt(value: Any, name: str, origin: str) -> np.ndarray:
    """Return a symmetric tensor of 9 or 6 numbers as (6,)."""
    tensor = _numbers(value, name, origin, (6,), (3, 3))
    return tensor if tensor.ndim == 1 else full_3x3_to_voigt_6_stress(tensor)


def _numbers(value: Any, name: str, origin: str, *shapes: tuple[int, ...]) -> np.ndarray:
    """Return a value in the one of the shapes that has its size.

    Flags, texts and complex numbers are none, though numpy makes numbers of them.
    """
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):
        numbers = np.empty(0, dtype=object)
    for shape in shapes:
        if numbers.dtype.kind in "iuf" and numbers.size == np.prod(shape):
            return numbers.astype(np.float64).reshape(shape)
    expected = " or ".join(map(str, shapes))
    raise UnreadableError(f"{origin} has {name}={shown(value)}, not numbers of the shape {expected}")
