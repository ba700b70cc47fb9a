"""The structures of a batch, and what they have to be before edges are looked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError, shown
from ocp_scn.fairchem.images import MIN_DISTANCE, check_images, coincidence
from ocp_scn.fairchem.systems import Systems, check_cells, farthest, fetch
from ocp_scn.fairchem.training_data import KnownElements


def checked_systems(data: Any, config: SCNConfig, known: KnownElements | None) -> Systems:
    """Return the systems of a batch, wrapped.

    Raises:
        InputError: for structures that the model cannot compute.
    """
    _check_shapes(data)
    pbc = data.pbc.reshape(-1, 3) if "pbc" in data else None
    if not config.use_pbc:
        pbc = torch.zeros(len(data.natoms), 3, dtype=torch.bool, device=data.pos.device)
    systems, elements = fetch(data.pos, data.cell, data.natoms, pbc, data.atomic_numbers)
    _check_sizes(data, systems)
    fits = (elements >= 0) & (elements < config.max_num_elements) & (elements == np.floor(elements))
    if not fits.all():
        atom = int(fits.argmin())
        raise InputError(
            f"atomic number {elements[atom]:g} in {_system_name(data, systems, atom)}; expected "
            f"0..{config.max_num_elements - 1} (max_num_elements={config.max_num_elements})"
        )
    if known is not None:
        known.check(elements)
    _check_positions(data, systems)
    limit = farthest(np.float64)
    good = (np.abs(systems.cell) <= limit).all((1, 2))  # False for what is no number
    if not good.all():
        system = int(good.argmin())
        cell = systems.cell[system].tolist()
        expected = "finite numbers" if not np.isfinite(cell).all() else f"vectors within {limit:.0e} Å"
        raise InputError(f"cell {cell} of {_sid(data, system)}; expected {expected}")
    check_cells(systems, partial(_sid, data))
    systems = systems.wrapped()
    check_images(systems, config.cutoff, partial(_sid, data))
    return systems


def check_mixed(config: SCNConfig, systems: Systems) -> None:
    """Raise `InputError` if systems that are searched together differ in their periodic directions."""
    if config.use_pbc_single or (systems.periodic == systems.periodic[:1]).all():
        return
    raise InputError(
        f"a batch mixes periodic boundary conditions {np.unique(systems.periodic, axis=0).tolist()}; "
        "set use_pbc_single: True"
    )


def has_tiny_cells(systems: Systems) -> bool:
    """Return whether a cell is so flat that atoms are at the places of their images."""
    heights = 1 / np.linalg.norm(systems.inverse, axis=1)
    return bool((systems.periodic & (heights < 2 * MIN_DISTANCE)).any())


def check_places(data: Any, systems: Systems) -> None:
    """Raise `InputError` if two atoms are at one place, periodic images included."""
    pair = coincidence(systems)
    if pair is not None:
        first, second = pair
        raise InputError(
            f"{_system_name(data, systems, first)} and atom {_index_in_system(systems, second)} "
            f"are at one place (closer than {MIN_DISTANCE} Å)"
        )


def check_tensors(data: Any) -> None:
    """Raise `InputError` for a batch of fairchem 1 without a tensor of what makes a structure."""
    fault = tensor_fault(data, ("pos", "cell", "atomic_numbers", "natoms"))
    if fault is not None:  # other values are batched as lists, if that of the first sample is no tensor
        raise InputError(f"{_sid(data, 0)} has {fault}")


def tensor_fault(data: Any, needed: Iterable[str]) -> str | None:
    """Return what a sample or batch of fairchem 1 lacks, or has that is no tensor, if there is something."""
    for name in (*needed, "pbc", "fixed"):
        value = data.get(name)
        if value is None and name in needed:
            return f"no {name}"
        if value is not None and not isinstance(value, Tensor):
            first = value[0] if isinstance(value, list) and value else value
            return f"{name}={shown(first)}; expected a tensor of numbers"
    return None


def _check_shapes(data: Any) -> None:
    """Refuse tensors that are no batch of B systems with A atoms."""
    atoms, size = len(data.pos), len(data.natoms)
    expected = {"pos": (atoms, 3), "atomic_numbers": (atoms,), "cell": (size, 3, 3), "pbc": (size, 3)}
    for name, shape in expected.items():
        # Line 1 batches the pbc (3,) of its samples to (3 B,).
        found = tuple(data[name].shape) if name in data else shape
        if found != shape and not (name == "pbc" and found == (3 * size,)):
            raise InputError(f"{name} has the shape {found}; expected {shape} for {size} systems")


def _check_sizes(data: Any, systems: Systems) -> None:
    """Refuse numbers of atoms that are not those of the batch, and systems without an atom."""
    total, sizes = len(systems.pos), systems.natoms
    if sizes.sum() != total or (sizes < 0).any():
        raise InputError(f"natoms={sizes.tolist()} sum to {sizes.sum()}; expected the {total} atoms of pos")
    if not sizes.all():
        raise InputError(f"{_sid(data, int(sizes.argmin()))} has no atoms; expected at least one")


def _check_positions(data: Any, systems: Systems) -> None:
    limit = farthest(systems.pos.dtype)
    good = (np.abs(systems.pos) <= limit).all(1)  # False for what is no number
    if good.all():
        return
    atom = int(good.argmin())
    place = f"position {systems.pos[atom].tolist()} in {_system_name(data, systems, atom)}"
    if not np.isfinite(systems.pos[atom]).all():
        raise InputError(f"{place}; expected finite numbers")
    raise InputError(
        f"{place}; expected within {limit:.2g} Å of the origin, where {systems.pos.dtype} has enough digits"
    )


def _index_in_system(systems: Systems, atom: int) -> int:
    return atom - int(systems.first[systems.system[atom]])


def _system_name(data: Any, systems: Systems, atom: int) -> str:
    return f"{_sid(data, int(systems.system[atom]))}, atom {_index_in_system(systems, atom)}"


def _sid(data: Any, system: int) -> str:
    sid = data.sid[system] if "sid" in data else system
    sid = sid.item() if isinstance(sid, Tensor) else sid
    return f"system {system if sid == '' else sid}"  # fairchem 2 calls those without an id ''
