"""The systems of a batch as searches read them: on the host, checked, and inside their cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocp_scn.errors import InputError

# An atom on a face of its cell stays where it is, though rounding puts it beyond; in units of the edges.
_ON_A_FACE = 1e-6
# A cell with less than this share of the volume of a box with its edges is flat: float32 rounds it to 1e-7.
_NO_VOLUME = 1e-6
# The largest steps between float numbers of a coordinate, and the largest coordinate at all, Å.
_COARSEST, _LARGEST = 1e-2, 1e9
# How far a vector of 1 Å at right angles to the others may be off, by rounding.
_ADDED = 1e-5


@dataclass(frozen=True)
class Systems:
    """Positions and cells of B systems with A atoms in all, on the host.

    Attributes:
        pos: (A, 3) positions, Å, in the batch's precision; in float64 once they are wrapped.
        cell: (B, 3, 3) cell vectors in rows, Å, in the batch's precision.
        natoms: (B,) number of atoms.
        periodic: (B, 3) whether images lie along each cell vector.
        moved: (A, 3) whole cells by which `wrapped` moved each atom, integers: it was at
            pos + moved @ cell.
    """

    pos: np.ndarray
    cell: np.ndarray
    natoms: np.ndarray
    periodic: np.ndarray
    moved: np.ndarray

    @cached_property
    def system(self) -> np.ndarray:
        """(A,) index of each atom's system."""
        return np.repeat(np.arange(len(self.natoms)), self.natoms)

    @cached_property
    def first(self) -> np.ndarray:
        """(B,) index of each system's first atom."""
        return np.cumsum(self.natoms) - self.natoms

    @cached_property
    def flat(self) -> np.ndarray:
        """(B,) whether a cell has no volume, rounding aside."""
        return _flat(self.cell)

    @cached_property
    def inverse(self) -> np.ndarray:
        """(B, 3, 3) inverse cells, float64; the identity for a cell without volume."""
        return np.linalg.inv(np.where(self.flat[:, None, None], np.eye(3), self.cell))

    def fractional(self) -> np.ndarray:
        """Return the atoms' places (A, 3) in units of the cell vectors, float64."""
        return (self.pos[:, None] @ self.inverse[self.system])[:, 0]

    def wrapped(self) -> Systems:
        """Return the systems with every atom inside its cell along periodic directions.

        fairchem's search takes that for granted, and its choice among equal distances depends on it.
        """
        fractional = self.fractional()
        outside = self.periodic[self.system] & (np.abs(fractional - 0.5) > 0.5 + _ON_A_FACE)
        if not outside.any():
            return self
        moved = np.where(outside, np.floor(fractional), 0).astype(np.int64)
        # In float64: many cells of a rounded product are far off, and in float32 the other side of a large
        # cell is too far away for places there to be told apart.
        shift = (moved[:, :, None] * self.cell[self.system].astype(np.float64)).sum(1)
        return replace(self, pos=self.pos - shift, moved=self.moved + moved)


def to_host(values: Tensor) -> np.ndarray:
    """Return a copy on the host; the graph waits for its device here and nowhere else."""
    return values.detach().to("cpu", copy=True).numpy()


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy on the device, or the same memory on a CPU; waits for nothing."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetch(pos: Tensor, cell: Tensor, natoms: Tensor, pbc: Tensor | None, *others: Tensor) -> list[Any]:
    """Return `Systems`, as they are, and other tensors as float64 arrays, in one transfer.

    Args:
        pos: (A, 3) Å, float32 or float64.
        cell: (B, 3, 3) Å.
        natoms: (B,) number of atoms.
        pbc: (B, 3) whether images lie along each cell vector; everywhere if None.
        others: what else is wanted of the device.
    """
    parts = [pos, cell, natoms, *([] if pbc is None else [pbc]), *others]
    packed = to_host(torch.cat([part.detach().flatten().double() for part in parts]))
    arrays = np.split(packed, np.cumsum([part.numel() for part in parts])[:-1])
    size, dtype = len(natoms), np.dtype(str(pos.dtype).removeprefix("torch."))
    periodic = np.ones((size, 3), dtype=bool) if pbc is None else arrays[3].reshape(-1, 3) != 0
    systems = Systems(
        pos=arrays[0].reshape(-1, 3).astype(dtype),
        cell=arrays[1].reshape(-1, 3, 3).astype(dtype),
        natoms=arrays[2].astype(np.int64),
        periodic=np.broadcast_to(periodic, (size, 3)),
        moved=np.zeros((len(pos), 3), dtype=np.int64),
    )
    return [systems, *arrays[len(parts) - len(others) :]]


def check_cells(systems: Systems, name: Callable[[int], str] = "system {}".format) -> None:
    """Raise `InputError`, with the system's ``name``, for what `cell_fault` finds."""
    lacking = _without_vector(systems.cell, systems.periodic).any(1)
    wrong = (lacking | (systems.flat & systems.periodic.any(1))) & (systems.natoms > 0)
    if wrong.any():
        k = int(wrong.argmax())
        raise InputError(f"{name(k)}: {cell_fault(systems.cell[k], systems.periodic[k])}")


def farthest(dtype: Any) -> float:
    """Return the largest coordinate, Å, at which numbers of a precision still tell atoms apart."""
    return min(_LARGEST, _COARSEST / float(np.finfo(dtype).eps))


def cell_fault(cell: np.ndarray, periodic: np.ndarray) -> str | None:
    """Return why a cell (3, 3) in Å cannot be periodic along the given ones (3,) of its vectors, or None."""
    lacking = _without_vector(cell[None], periodic[None])[0]
    if lacking.any():
        axes = " and ".join(axis for axis, lacks in zip("abc", lacking, strict=True) if lacks)
        return f"periodic along {axes} without a cell vector"
    if periodic.any() and _flat(cell[None])[0]:
        cell = cell.astype(np.float64)
        return f"cell {cell.tolist()} has no volume, but periodic directions {periodic.tolist()}"
    return None


def _flat(cell: np.ndarray) -> np.ndarray:
    """Return whether cells (B, 3, 3) have no volume, rounding aside."""
    cell = cell.astype(np.float64)
    return ~(np.abs(np.linalg.det(cell)) > _NO_VOLUME * np.linalg.norm(cell, axis=2).prod(1))


def _without_vector(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """Return the periodic directions (B, 3) that have no cell vector.

    ASE and fairchem put a vector of 1 Å at right angles to the others where there is none. It counts as none:
    no crystal has atoms 1 Å from their own images along a vector of such a length and direction.
    """
    cell = cell.astype(np.float64)
    length = np.linalg.norm(cell, axis=2)
    products = np.abs(cell @ cell.transpose(0, 2, 1))
    products[:, range(3), range(3)] = 0
    added = (np.abs(length - 1) < _ADDED) & (products <= _ADDED * length[:, None]).all(2)
    return periodic & (added | (length == 0))
