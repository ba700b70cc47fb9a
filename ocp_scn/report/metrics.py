"""Errors of structures and their means; fairchem's metrics by its names, in numpy, for both lines of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from ocp_scn.report.predictions import NO_TAG, Targets

ENERGY_THRESHOLD, FORCE_THRESHOLD = 0.02, 0.03  # OC20's, eV and eV/Å
_EPSILON = 1e-8  # torch's, of a cosine
TAGS = {0: "sub-surface (0)", 1: "surface (1)", 2: "adsorbate (2)"}


class Errors(NamedTuple):
    """Errors of S structures with F free atoms, NaN where a label is missing.

    ``energy`` (S,) eV and ``forces`` (F, 3) eV/Å are predicted − calculated; ``cosine`` (F,) is that of the
    forces on an atom; ``force_mae`` (S,) and ``force_max`` (S,) are the mean and the largest absolute error
    of a structure's force components. What belongs to forces is None without them.
    """

    energy: np.ndarray
    forces: np.ndarray | None
    cosine: np.ndarray | None
    force_mae: np.ndarray | None
    force_max: np.ndarray | None


def errors_of(energy: np.ndarray, forces: np.ndarray | None, targets: Targets) -> Errors:
    """Return the errors of energies (S,) eV and forces of free atoms (F, 3) eV/Å.

    A structure with forces on some of its free atoms alone counts as one without.
    """
    off = energy - targets.energy
    if forces is None or targets.forces is None:
        return Errors(off, None, None, None, None)
    counts = targets.free_atoms
    labelled = per_structure(np.isfinite(targets.forces).all(axis=1), counts, np.logical_and, True)
    wrong = np.where(np.repeat(labelled, counts)[:, None], forces - targets.forces, np.nan)
    lengths = [np.maximum(np.linalg.norm(values, axis=1), _EPSILON) for values in (forces, targets.forces)]
    cosine = (forces * targets.forces).sum(axis=1) / lengths[0] / lengths[1]
    cosine[np.isnan(wrong).any(axis=1)] = np.nan
    size = np.abs(wrong)
    largest = per_structure(size.max(axis=1, initial=0), counts, np.maximum, 0.0)
    with np.errstate(invalid="ignore"):
        mean = per_structure(size.mean(axis=1), counts, np.add, 0.0) / counts
    return Errors(off, wrong, cosine, mean, np.where(labelled, largest, np.nan))


def per_structure(values: np.ndarray, counts: np.ndarray, reduce: np.ufunc, empty: float) -> np.ndarray:
    """Return what ``reduce`` makes of each structure's values (F,): (S,), ``empty`` for one without any."""
    found = np.full(len(counts), empty, dtype=values.dtype)
    filled = counts > 0
    if filled.any():
        found[filled] = reduce.reduceat(values, (np.cumsum(counts) - counts)[filled])
    return found


def metrics(errors: Errors) -> dict[str, float]:
    """Return fairchem's metrics of the structures with the labels that each of them compares; NaN of none."""
    energy = np.abs(errors.energy[~np.isnan(errors.energy)])
    found = {
        "energy_mae": _mean(energy),
        "energy_within_threshold": _mean(energy < ENERGY_THRESHOLD),
    }
    if errors.forces is None or errors.cosine is None:
        return found
    wrong = np.abs(errors.forces[~np.isnan(errors.forces)])
    factor = threshold_factors(errors)["energy and forces"]
    return found | {
        "forces_mae": _mean(wrong),
        "forces_cosine_similarity": _mean(errors.cosine[~np.isnan(errors.cosine)]),
        "energy_forces_within_threshold": _mean(factor < 1),
    }


def threshold_factors(errors: Errors) -> dict[str, np.ndarray]:
    """Return for each structure how many times OC20's thresholds its errors are, of those with labels.

    A structure is within the thresholds if its factor is below 1.
    """
    found = {"energy": np.abs(errors.energy) / ENERGY_THRESHOLD}
    if errors.force_max is not None:
        found["forces"] = errors.force_max / FORCE_THRESHOLD
        found["energy and forces"] = np.maximum(found["energy"], found["forces"])
    return {name: values[~np.isnan(values)] for name, values in found.items()}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan


class Group(NamedTuple):
    """What some structures or atoms have in common, their number, and mean absolute errors (NaN: unknown)."""

    name: str
    structures: int
    energy_mae: float
    atoms: int
    force_mae: float


def by_element(errors: Errors, targets: Targets) -> list[Group]:
    """Return a group for each element: energies of structures that contain it, forces on its free atoms."""
    found = []
    size = np.abs(errors.energy)
    for number in np.flatnonzero(targets.contains.any(axis=0)):
        atoms = targets.numbers == number
        found.append(_group(chemical_symbols[number], size[targets.contains[:, number]], errors, atoms))
    return found


def by_adsorbate(errors: Errors, targets: Targets) -> list[Group]:
    """Return a group for each adsorbate of a data set with tags; forces are those on all free atoms."""
    found = []
    size = np.abs(errors.energy)
    names, which = np.unique(targets.adsorbates, return_inverse=True)
    for number, name in enumerate(names):
        if name:
            atoms = np.repeat(which == number, targets.free_atoms)
            found.append(_group(str(name), size[which == number], errors, atoms))
    return found


def by_tag(errors: Errors, targets: Targets) -> list[Group]:
    """Return a group for each tag of the free atoms of a data set with tags, where there are forces."""
    if errors.forces is None:
        return []
    tags = [int(tag) for tag in np.unique(targets.tags) if tag != NO_TAG]
    return [_group(TAGS.get(tag, f"tag {tag}"), np.empty(0), errors, targets.tags == tag) for tag in tags]


def _group(name: str, energy: np.ndarray, errors: Errors, atoms: np.ndarray) -> Group:
    known = energy[~np.isnan(energy)]
    if errors.forces is None:
        return Group(name, len(known), _mean(known), 0, np.nan)
    forces = errors.forces[atoms]
    forces = forces[~np.isnan(forces).any(axis=1)]
    return Group(name, len(known), _mean(known), len(forces), _mean(np.abs(forces)))


def worst(errors: Errors, count: int) -> list[int]:
    """Return the indices of the largest errors of forces, or of energies without, the largest first."""
    size = np.abs(errors.energy) if errors.force_mae is None else errors.force_mae
    known = np.flatnonzero(~np.isnan(size))
    order: Sequence[int] = known[np.argsort(-size[known], kind="stable")][:count].tolist()
    return list(order)
