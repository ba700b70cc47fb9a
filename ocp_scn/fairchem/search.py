"""Pairs of atoms within a radius, by a library on CPUs and in torch's operators on other devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vesin import NeighborList

from ocp_scn.fairchem.images import MIN_DISTANCE, image_atoms
from ocp_scn.fairchem.systems import Systems, to_device, to_host

# Two atoms closer than this may be at one place, float32 aside, Å.
_SUSPICIOUS = 2 * MIN_DISTANCE
# Room for the rounding of float32 where pairs are looked for in float64, Å.
_MARGIN = 1e-2
# Float32 holds coordinates up to half of this to 8e-6 Å. From larger ones a multiple of it is taken, Å.
_BLOCK = 256.0
# Pairs that are compared at once on a device, at 40 bytes each: 640 MiB.
MAX_PAIRS = 2**24
# Cells of vesin's grid. It makes larger grids coarser, keeping their shape, and so comes to 0 cells along a
# short side, which ends the process.
_MAX_CELLS = 1e5

_settings = {"comparing_all": False}


@dataclass(frozen=True)
class Pairs:
    """E pairs of atoms by target, source and offset, as fairchem's search returns them.

    Attributes:
        source: (E,) atom, whose image it is.
        target: (E,) atom.
        offset: (E, 3) cells by which the image of the source is moved, float32.
        distance2: (E,) squared distance, Å^2, float32.
        counts: (A,) pairs of each target, on the host.
        suspicious: whether atoms seem to be at one place.
    """

    source: Tensor
    target: Tensor
    offset: Tensor
    distance2: Tensor
    counts: np.ndarray
    suspicious: bool


@contextmanager
def comparing_all() -> Iterator[None]:
    """Find pairs on CPUs as on GPUs within the context, to test or count that."""
    before = _settings["comparing_all"]
    _settings["comparing_all"] = True
    try:
        yield
    finally:
        _settings["comparing_all"] = before


def compares_all(device: torch.device) -> bool:
    """Return whether all pairs are compared, on the device itself, rather than searched on the host."""
    return device.type != "cpu" or _settings["comparing_all"]


def find_pairs(systems: Systems, radius: float, device: torch.device) -> Pairs:
    """Return all pairs of atoms within a radius, images included, on the device.

    Distances are computed in float32, in fairchem's order of operations: they decide who is a neighbour.
    Places are rounded to float32 relative to a point nearby, which near the origin is the origin.

    Args:
        systems: wrapped into their cells.
        radius: Å.
        device: the one of the batch. On a GPU all atoms of a system are compared with all images within
            reach, for all systems at once; on a CPU grids of cells are compared, by the library vesin.
    """
    if compares_all(device) or _has_no_grid(systems, radius):
        return _compare_all(systems, radius, device)
    return _search_cells(systems, radius)


# --- on a CPU -------------------------------------------------------------------------------------


def _has_no_grid(systems: Systems, radius: float) -> bool:
    """Tell whether vesin's grid of cells, as long as the radius, might have a side without any.

    It reaches from plane to plane of a cell along periodic directions, and along others as far as atoms do.
    """
    apart = np.abs(systems.pos - systems.pos[systems.first[systems.system]]).max(axis=1, initial=0)
    reach = np.zeros(len(systems.natoms))
    np.maximum.at(reach, systems.system, 2 * apart)  # of atoms, at most
    heights = 1 / np.linalg.norm(systems.inverse, axis=1)
    most = np.maximum(np.where(systems.periodic, heights, reach[:, None]) / radius, 1)
    if most.prod(axis=1).max(initial=0) <= _MAX_CELLS:
        return False
    for sides in itertools.product((True, False), repeat=3):  # as long as they may be, or of one cell
        cells = np.where(systems.periodic | np.array(sides), most, 1)
        total = cells.prod(axis=1, keepdims=True)
        coarser = cells * np.cbrt(_MAX_CELLS / total)
        if ((total > _MAX_CELLS) & (coarser < 2)).any():  # 2: numbers of cells are rounded down
            return True
    return False


def _parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (N, 3) as two parts (3, N) in float32: rests, and the multiples of a block.

    Coordinates up to half a block are left as they are, rounded as fairchem's are.
    """
    values = values.astype(np.float64).T
    blocks = np.round(values / _BLOCK) * _BLOCK
    return (values - blocks).astype(np.float32), blocks.astype(np.float32)


def _search_cells(systems: Systems, radius: float) -> Pairs:
    target, source, offset = _vesin(systems, radius + _MARGIN)
    code, offsets = _numbered(offset)
    distance2 = _distances2(systems, target, source, code, offsets)
    suspicious = bool((distance2 <= _SUSPICIOUS**2).any())
    near = (distance2 <= np.float32(radius * radius)) & (distance2 > np.float32(MIN_DISTANCE**2))
    num_atoms = len(systems.pos)
    key = (target * num_atoms + source) * len(offsets) + code
    found = np.flatnonzero(near)
    found = found[np.argsort(key[found], kind="stable")]  # the fastest where much is in order already
    target = target[found]
    return Pairs(
        source=torch.from_numpy(source[found]),
        target=torch.from_numpy(target),
        offset=torch.from_numpy(offsets.astype(np.float32)[code[found]]),
        distance2=torch.from_numpy(distance2[found]),
        counts=np.bincount(target, minlength=num_atoms),
        suspicious=suspicious,
    )


def _vesin(systems: Systems, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target (E,), source (E,) and offset (3, E) of all pairs, but no atom with itself."""
    search = NeighborList(cutoff=radius, full_list=True, n_threads=torch.get_num_threads())
    pos, cells = systems.pos.astype(np.float64), systems.cell.astype(np.float64)
    indices, offsets = [np.zeros((2, 0), dtype=np.int64)], [np.zeros((3, 0), dtype=np.int32)]
    for k, (first, natoms) in enumerate(zip(systems.first, systems.natoms, strict=True)):
        index, offset = search.compute(
            pos[first : first + natoms], cells[k], systems.periodic[k], quantities="PS"
        )
        indices.append(index.T.astype(np.int64, order="C") + first)
        offsets.append(offset.T)
    target, source = np.concatenate(indices, axis=1)
    return target, source, np.concatenate(offsets, axis=1)


def _numbered(offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (E,) of offsets (3, E) and the offset (U, 3) of each number, in order."""
    lowest = [int(of_axis.min(initial=0)) for of_axis in offset]
    sizes = [int(of_axis.max(initial=0)) + 1 - low for of_axis, low in zip(offset, lowest, strict=True)]
    code = np.zeros(offset.shape[1], dtype=np.int64)
    for of_axis, low, size in zip(offset, lowest, sizes, strict=True):
        code = code * size + (of_axis - low)
    if np.prod(sizes, dtype=float) > len(code) + 1000:  # list those that occur
        numbers, code = np.unique(code, return_inverse=True)
    else:
        numbers = np.arange(np.prod(sizes))
    return code, np.stack(np.unravel_index(numbers, sizes), axis=1) + np.array(lowest)


def _distances2(
    systems: Systems, target: np.ndarray, source: np.ndarray, code: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return squared distances (E,), Å^2, in float32, rounded as fairchem's are."""
    num_systems, num_offsets = len(systems.natoms), len(offsets)
    if num_systems * num_offsets > len(code) + 1000:  # few pairs: a shift for each
        shifts, shift = _shifts(offsets[code], systems, systems.system[target]), np.arange(len(code))
    else:
        system = np.repeat(np.arange(num_systems), num_offsets)
        shifts = _shifts(np.tile(offsets, (num_systems, 1)), systems, system)
        shift = code if num_systems == 1 else systems.system[target] * num_offsets + code
    rests, blocks = _parts(systems.pos)
    far = blocks.any() or shifts[1].any()
    total: np.ndarray = np.zeros((), dtype=np.float32)
    for k in range(3):
        along = rests[k][target] - (rests[k][source] + shifts[0][k][shift])
        if far:
            along += blocks[k][target] - (blocks[k][source] + shifts[1][k][shift])
        total = total + along**2
    return total


def _shifts(offset: np.ndarray, systems: Systems, system: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return offset @ cell in the parts (3, E) of `_parts`.

    Shifts up to half a block are rounded as a matrix product in float32 is with multiply-and-add.
    """
    narrow, wide = systems.cell.astype(np.float32).astype(np.float64), systems.cell.astype(np.float64)
    rounded, total = np.zeros((len(offset), 3), dtype=np.float32), np.zeros((len(offset), 3))
    near = np.ones((len(offset), 3), dtype=bool)
    for k in range(3):
        rounded = (rounded + offset[:, k, None] * narrow[system, k]).astype(np.float32)
        total += offset[:, k, None] * wide[system, k]
        near &= np.abs(total) < _BLOCK / 2
    rests, blocks = _parts(total)
    return np.where(near.T, rounded.T, rests), np.where(near.T, 0, blocks)


# --- on other devices -----------------------------------------------------------------------------


def _compare_all(systems: Systems, radius: float, device: torch.device) -> Pairs:
    num_atoms = len(systems.pos)
    if num_atoms == 0:
        return _no_pairs(device)
    images, offset = image_atoms(systems, radius + _MARGIN)
    rests, blocks = _parts(systems.pos)
    shifts = _shifts(offset, systems, systems.system[images])
    column, first, width = _columns(systems, images)

    def tables(of_atoms: np.ndarray, of_images: np.ndarray, padding: float) -> tuple[Tensor, Tensor]:
        """Return coordinates of images (3, B, M), by system, and of atoms (3, A, 1)."""
        table = np.full((3, len(systems.natoms), width), padding, dtype=np.float32)
        table[:, systems.system[images], column] = of_images
        return to_device(table, device), to_device(of_atoms, device)[:, :, None]

    parts = [tables(rests, rests[:, images] + shifts[0], np.inf)]
    if blocks.any() or shifts[1].any():
        parts.append(tables(blocks, blocks[:, images] + shifts[1], 0))
    system = to_device(systems.system, device)

    def compare(atoms: slice) -> tuple[Tensor, Tensor]:
        """Return squared distances (a, M) of some targets, and which are those of neighbours."""
        along, *more = (table[:, system[atoms]] - pos[:, atoms] for table, pos in parts)
        for part in more:
            along += part
        squares = along.square_()
        distance2 = squares[0] + squares[1] + squares[2]
        return distance2, (distance2 <= radius * radius) & (distance2 > MIN_DISTANCE**2)

    step = max(1, MAX_PAIRS // max(1, width))
    chunks = [slice(k, min(k + step, num_atoms)) for k in range(0, num_atoms, step)]
    counts, together, compared = [], [], {}
    for k, atoms in enumerate(chunks):
        distance2, near = compare(atoms)
        counts.append(near.sum(1))
        together.append((distance2 <= _SUSPICIOUS**2).sum(1))  # 1: the atom itself
        if len(chunks) == 1:
            compared[k] = distance2, near
    per_atom, close = to_host(torch.stack([_joined(counts), _joined(together)]))

    found = []
    for k, atoms in enumerate(chunks):
        distance2, near = compared[k] if k in compared else compare(atoms)
        index = true_indices(near.flatten(), int(per_atom[atoms].sum()))
        found.append((index // width + atoms.start, index % width, distance2.flatten()[index]))
    target, place, distance2 = (_joined(of_chunks) for of_chunks in zip(*found, strict=True))
    image = place + to_device(first[systems.system], device)[target]
    return Pairs(
        source=to_device(images, device)[image],
        target=target,
        offset=to_device(offset.astype(np.float32), device)[image],
        distance2=distance2,
        counts=per_atom,
        suspicious=bool((close > 1).any()),
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def true_indices(mask: Tensor, count: int) -> Tensor:
    """Return the indices (count,) of the True entries of a mask (N,), without waiting for their number."""
    return torch.searchsorted(mask.cumsum(0), torch.arange(1, count + 1, device=mask.device))


def _columns(systems: Systems, source: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return each image's number (I,) in its system, each system's first image (B,), and the most of one."""
    system, num_systems = systems.system[source], len(systems.natoms)
    numbers = np.bincount(system, minlength=num_systems)
    first = np.cumsum(numbers) - numbers
    return np.arange(len(source)) - first[system], first, int(numbers.max(initial=0))


def _no_pairs(device: torch.device) -> Pairs:
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    empty = torch.zeros(0, 3, device=device, dtype=torch.float32)
    return Pairs(nothing, nothing, empty, empty[:, 0], np.zeros(0, dtype=np.int64), suspicious=False)
