"""Images of atoms in periodic systems: how many there are, those within reach, and atoms at one place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from ocp_scn.errors import InputError
from ocp_scn.fairchem.systems import Systems

# fairchem's graph takes two atoms closer than this for one and leaves their edge out, Å.
MIN_DISTANCE = 0.01
# A cell with fewer images than this within reach needs no limit: memory grows with the atoms alone.
_FEW = 64
# Images of a system that fit into memory, at about 100 bytes each, and pairs, for which a network of all
# neighbours takes ten times as much, or a hundred. Ordinary cells are far below: one of 1 Å has 7e3 images
# within 8 Å.
_MAX_IMAGES = 2**22
_MAX_PAIRS = 2**21
# The same where an atom has more neighbours than this, as in no substance.
_ABSURD = 2**13
_MAX_ABSURD_PAIRS = 2**18


def check_images(systems: Systems, radius: float, name: Callable[[int], str] = "system {}".format) -> None:
    """Raise `InputError`, with the system's ``name``, for what `image_fault` finds."""
    found = image_fault(systems, radius)
    if found is not None:
        raise InputError(f"{name(found[0])}: {found[1]}")


def image_fault(systems: Systems, radius: float) -> tuple[int, str] | None:
    """Return the first system with more images within a radius in Å than fit into memory, and what to say.

    So it is with cells that hardly have a volume: their planes are so near each other that a sphere has
    millions of them.
    """
    reach = np.where(systems.periodic, _reach(systems, radius), 0)
    cells = (2 * reach + np.where(systems.periodic, 2, 1)).prod(1)  # at most, after wrapping
    neighbors = systems.natoms * (2 * reach).prod(1, where=systems.periodic)  # of an atom, about
    many = (systems.natoms * cells > _MAX_IMAGES) | (systems.natoms * neighbors > _MAX_PAIRS)
    # In all directions their number is also that of the density, whatever shape a cell is given.
    volume = 1 / np.abs(np.linalg.det(systems.inverse))
    dense = np.where(systems.periodic.all(1), systems.natoms * 4 / 3 * np.pi * radius**3 / volume, 0)
    many |= (dense > _ABSURD) & (systems.natoms * dense > _MAX_ABSURD_PAIRS)
    many &= (cells > _FEW) & (systems.natoms > 0)
    if not many.any():
        return None
    k = int(many.argmax())
    cell = systems.cell[k].astype(np.float64).tolist()
    return k, (
        f"{cells[k]:.3g} images of the cell {cell} are within {radius:g} Å of its {systems.natoms[k]} atoms, "
        "more than a search has room for; expected a cell that is less flat or less small"
    )


def _reach(systems: Systems, radius: float) -> np.ndarray:
    """Return a radius in units of the distances between the planes of each cell vector, (B, 3)."""
    return radius * np.linalg.norm(systems.inverse, axis=1)


def image_atoms(systems: Systems, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return sources (I,) and offsets (I, 3) of all images that may be within a radius of an atom.

    They are in order, by source, then by offset, and the atoms themselves are among them. Left out are
    images beyond a box around the system's atoms, which has the cell's shape and the radius as margin:
    in units of a cell vector, n is in it if lowest - reach <= place + n <= highest + reach.
    """
    place, system = systems.fractional(), systems.system
    reach = _reach(systems, radius)
    lowest, highest = np.full_like(reach, np.inf), np.full_like(reach, -np.inf)
    np.minimum.at(lowest, system, place)
    np.maximum.at(highest, system, place)
    periodic = systems.periodic[system]
    begin = np.where(periodic, np.ceil((lowest - reach)[system] - place), 0).astype(np.int64)
    end = np.where(periodic, np.floor((highest + reach)[system] - place), 0).astype(np.int64)
    sizes = end - begin + 1  # (A, 3)
    numbers = sizes.prod(1)
    source = np.repeat(np.arange(len(place)), numbers)
    rest = np.arange(len(source)) - (np.cumsum(numbers) - numbers)[source]
    offset = np.empty((len(source), 3), dtype=np.int64)
    for k in (2, 1, 0):
        rest, offset[:, k] = np.divmod(rest, sizes[source, k])
    return source, offset + begin[source]


def coincidence(systems: Systems, distance: float = MIN_DISTANCE) -> tuple[int, int] | None:
    """Return two atoms (indices in the batch) closer than a distance in Å, if any; images count.

    Args:
        systems: wrapped into their cells; `image_fault` finds none for this distance.
        distance: Å.
    """
    source, offset = image_atoms(systems, distance)
    pos, cell = systems.pos.astype(np.float64), systems.cell.astype(np.float64)
    moved = pos[source] + (offset[:, None] @ cell[systems.system[source]])[:, 0]
    image_system = systems.system[source]
    for system, (first, natoms) in enumerate(zip(systems.first, systems.natoms, strict=True)):
        mine = np.flatnonzero(image_system == system)
        tree = cKDTree(moved[mine])
        found = cKDTree(pos[first : first + natoms]).sparse_distance_matrix(
            tree, distance, output_type="ndarray"
        )
        target, image = found["i"] + first, mine[found["j"]]
        other = (source[image] != target) | offset[image].any(1)
        if other.any():
            k = np.lexsort((image[other], target[other]))[0]
            return int(target[other][k]), int(source[image][other][k])
    return None
