"""Hostile structures, each of a kind and made from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from ase.build import bulk, fcc111
from ase.geometry import cellpar_to_cell
from torch_geometric.data import Data

Random = np.random.Generator
EVERYWHERE = (True, True, True)


@dataclass(frozen=True)
class Structure:
    """A structure as a caller may pass it to the network.

    Attributes:
        pos: (n, 3) positions, Å.
        cell: (3, 3) cell vectors in rows, Å.
        pbc: (3,) whether images lie along each of them.
        numbers: (n,) atomic numbers, of any type.
        dtype: of positions and cell.
        allowed: what may become of it: ``correct``, ``refused``, or ``either``.
        others: ``fixed``, ``tags``.
    """

    pos: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, ...] = EVERYWHERE
    numbers: np.ndarray | None = None
    dtype: torch.dtype = torch.float64
    allowed: str = "correct"
    others: dict[str, Any] = field(default_factory=dict)

    def data(self) -> Data:
        """Return it as fairchem's data sets do."""
        with np.errstate(all="ignore"):
            pos = torch.as_tensor(self.pos).to(self.dtype)
        floats = self.dtype if self.dtype.is_floating_point else torch.float32
        numbers = np.full(len(self.pos), 29) if self.numbers is None else self.numbers
        return Data(
            pos=pos.reshape(-1, 3),
            cell=torch.as_tensor(self.cell).to(floats)[None],
            pbc=torch.tensor(self.pbc),
            atomic_numbers=torch.as_tensor(numbers),
            natoms=torch.tensor([len(self.pos)]),
            **self.others,
        )


def kind_of(number: int) -> str:
    """Return the kind of case ``number``."""
    return list(KINDS)[number % len(KINDS)]


def make(number: int, seed: int) -> Structure:
    """Return the structure of case ``number``."""
    random = np.random.default_rng([seed, 1, number])
    structure = KINDS[kind_of(number)](random)
    if structure.numbers is None:
        structure = replace(structure, numbers=random.integers(1, 90, len(structure.pos)))
    if structure.dtype == torch.float64 and random.random() < 0.3:
        structure = replace(structure, dtype=torch.float32)
    return structure


def _cell(random: Random, edge: float = 6.0) -> np.ndarray:
    """Return a skewed cell with edges of about ``edge``, of either handedness."""
    return edge * (np.eye(3) + random.uniform(-0.2, 0.2, (3, 3)))[random.permutation(3)]


def _inside(random: Random, cell: np.ndarray, most: int = 12) -> np.ndarray:
    """Return 1 to ``most`` atoms at random places of a cell."""
    return random.random((random.integers(1, most + 1), 3)) @ cell


def _pbc(random: Random) -> tuple[bool, ...]:
    return list(product((False, True), repeat=3))[random.integers(8)]


def _plain(random: Random) -> Structure:
    cell = _cell(random)
    return Structure(_inside(random, cell), cell)


def _boundaries(random: Random) -> Structure:
    """Every combination of periodic directions; without one, any cell vector or none."""
    cell, pbc = _cell(random), _pbc(random)
    pos = _inside(random, cell)
    lacking = ~np.array(pbc) & (random.random(3) < 0.5)
    cell[lacking] = 0
    return Structure(pos, cell, pbc, allowed="either" if any(pbc) and lacking.any() else "correct")


def _far(random: Random) -> Structure:
    """All atoms 1e6 to 1e8 Å from the origin."""
    made = _boundaries(random)
    shift = random.normal(size=3)
    shift *= 10 ** random.uniform(6, 8) / np.linalg.norm(shift)
    return replace(made, pos=made.pos + shift, allowed="either")


def _scattered(random: Random) -> Structure:
    """One atom 1e6 to 1e8 Å from the others, or many cells outside."""
    made = _boundaries(random)
    made.pos[0] += 10 ** random.uniform(6, 8) * random.choice([-1, 1], 3)
    return replace(made, allowed="either")


def _outside(random: Random) -> Structure:
    """Atoms outside the cell by up to a thousand cells."""
    made = _boundaries(random)
    cells = random.integers(-1000, 1001, made.pos.shape) * np.array(made.pbc)
    return replace(made, pos=made.pos + cells @ made.cell, allowed="either")


def _faces(random: Random) -> Structure:
    """Atoms on faces, edges and corners, a rounding beside them, and in the cells beyond."""
    cell = _cell(random)
    places = random.choice([0, 0.5, 1, -1, 2, -1e-9, 1 - 1e-9, 1 + 1e-7, 0.25], (random.integers(1, 9), 3))
    return Structure(places @ cell, cell, allowed="either")  # two may be at one place


def _not_finite(random: Random) -> Structure:
    made = _boundaries(random)
    bad = random.choice([np.nan, np.inf, -np.inf, 1e300, -1e300])
    made.pos[random.integers(len(made.pos)), random.integers(3)] = bad
    return replace(made, allowed="refused")


def _coinciding(random: Random) -> Structure:
    """Two atoms at one place, or at that of an image."""
    made = _plain(random)
    image = random.integers(-2, 3, 3) @ made.cell * (random.random() < 0.5)
    pos = np.concatenate([made.pos, made.pos[:1] + image + random.uniform(-1e-4, 1e-4, 3)])
    return replace(made, pos=pos, allowed="refused")


def _nothing(random: Random) -> Structure:
    made = _boundaries(random)
    return replace(made, pos=np.zeros((0, 3)), allowed="either")


def _one(random: Random) -> Structure:
    made = _boundaries(random)
    return replace(made, pos=made.pos[:1])


def _many(random: Random) -> Structure:
    """100 to 200 atoms, now and then 1,000."""
    count = 1000 if random.random() < 0.05 else random.integers(100, 201)
    cell = _cell(random, 3 * count ** (1 / 3))
    side = int(np.ceil(count ** (1 / 3)))
    places = np.array(list(np.ndindex(side, side, side)))[:count] + random.uniform(0, 0.3, (count, 3))
    return Structure(places / side @ cell, cell)


def _tiny_cell(random: Random) -> Structure:
    """Cells of about 1 Å, now and then of less; ASE puts one of 1 Å at right angles where there is none."""
    edge = 10 ** random.uniform(-3, -0.1) if random.random() < 0.1 else random.uniform(0.8, 1.5)
    cell = np.eye(3) if random.random() < 0.2 else _cell(random, edge)
    pbc = EVERYWHERE if random.random() < 0.5 else _pbc(random)
    return Structure(_inside(random, cell, 2), cell, pbc, allowed="either")


def _huge_cell(random: Random) -> Structure:
    """Cells of up to 1e8 Å, with atoms in a corner, across the boundary or anywhere."""
    cell = _cell(random, 10 ** random.uniform(3, 8))
    pos = random.normal(size=(random.integers(1, 9), 3)) * 2
    pos = pos + random.integers(0, 2, pos.shape) @ cell if random.random() < 0.5 else pos
    return Structure(pos, cell, _pbc(random), allowed="either")


def _skewed(random: Random) -> Structure:
    """Angles of 5° to 175°."""
    volume = 0.0  # squared, in units of the edges
    while volume < 1e-5:
        angles = random.choice([5, 15, 30, 60, 90, 120, 150, 165, 175], 3)
        a, b, c = np.cos(np.radians(angles))
        volume = 1 + 2 * a * b * c - a * a - b * b - c * c
    cell = cellpar_to_cell([*random.uniform(3, 9, 3), *angles])
    return Structure(_inside(random, cell, 4), cell, allowed="either")  # close, where the cell is thin


def _left_handed(random: Random) -> Structure:
    cell = _cell(random)
    cell = cell * -np.sign(np.linalg.det(cell))
    return Structure(_inside(random, cell), cell)


def _singular(random: Random) -> Structure:
    """Two parallel vectors, or three in a plane."""
    cell = _cell(random)
    cell[2] = random.choice([1, -1, 2]) * cell[0] + random.choice([0, 1, -2]) * cell[1]
    pos = random.normal(size=(random.integers(1, 9), 3)) * 3
    return Structure(pos, cell, allowed="refused")


def _nearly_singular(random: Random) -> Structure:
    """A third vector that leaves the plane of the others by 1e-12 to 0.3 Å."""
    cell = _cell(random)
    normal = np.cross(cell[0], cell[1])
    height = 10 ** random.uniform(-12, -0.5)
    cell[2] = random.choice([1, -1, 0.37]) * cell[0] + random.choice([0, 1]) * cell[1]
    cell[2] += height * normal / np.linalg.norm(normal)
    return Structure(random.random((random.integers(1, 3), 3)) @ cell, cell, allowed="either")


def _zero_vector(random: Random) -> Structure:
    """A periodic direction, or several, without a cell vector."""
    made, pbc = _plain(random), np.array(_pbc(random))
    pbc[random.integers(3)] = True
    lacking = pbc & (random.random(3) < 0.5)
    lacking[np.flatnonzero(pbc)[0]] = True
    made.cell[lacking] = 0
    return replace(made, pbc=tuple(pbc.tolist()), allowed="refused")


def _cell_not_finite(random: Random) -> Structure:
    made = _boundaries(random)
    made.cell[random.integers(3), random.integers(3)] = random.choice([np.nan, np.inf, -np.inf, 1e300])
    return replace(made, allowed="refused" if any(made.pbc) else "either")


def _not_reduced(random: Random) -> Structure:
    """The cell (a, b + 50 a, c), or more of it."""
    cell = _cell(random)
    pos = _inside(random, cell)
    i, j, _ = random.permutation(3)
    cell[i] += random.choice([-50, 50, 7, 500]) * cell[j]
    return Structure(pos, cell, allowed="correct")


_CRYSTALS: dict[str, Callable[[], Any]] = {
    "fcc": lambda: bulk("Cu"),
    "cubic": lambda: bulk("Cu", cubic=True),
    "rock salt": lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    "diamond": lambda: bulk("Si"),
    "simple cubic": lambda: bulk("Po", "sc", a=3.3),
    "surface": lambda: fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True),
}


def _crystal(random: Random) -> Structure:
    """Equal distances, of which the cap on neighbours leaves some."""
    atoms = _CRYSTALS[random.choice(list(_CRYSTALS))]()
    atoms *= random.integers(1, 3, 3)
    return Structure(atoms.positions, atoms.cell.array, tuple(atoms.pbc.tolist()), atoms.numbers)


def _elements(random: Random) -> Structure:
    """Atomic numbers that no element has; 0 stands for an unknown one."""
    made = _plain(random)
    bad = random.choice([-1, 0, 29.7, 90, 119, 1e9, -1e9, np.nan])
    numbers = random.integers(1, 90, len(made.pos)).astype(float)
    numbers[random.integers(len(numbers))] = bad
    numbers = numbers.astype(int) if bad == np.trunc(bad) and random.random() < 0.7 else numbers
    return replace(made, numbers=numbers, allowed="either" if bad == 0 else "refused")


def _marks(random: Random) -> Structure:
    """``fixed`` and ``tags`` of wrong lengths and values, which the network does not read."""
    made = _plain(random)
    values = [np.zeros(len(made.pos) + 1), np.zeros(0), np.full(len(made.pos), -7), np.full(3, np.nan)]
    chosen = {name: torch.as_tensor(values[random.integers(4)]) for name in ("fixed", "tags")}
    return replace(made, others=chosen, allowed="either")


def _precision(random: Random) -> Structure:
    """Positions in float16, int64 and int32, which no weights are in."""
    kinds = (torch.float16, torch.bfloat16, torch.int64, torch.int32)
    return replace(_boundaries(random), dtype=kinds[random.integers(4)], allowed="refused")


KINDS: dict[str, Callable[[Random], Structure]] = {
    "plain": _plain,
    "periodic directions": _boundaries,
    "far from the origin": _far,
    "far from each other": _scattered,
    "outside the cell": _outside,
    "on faces": _faces,
    "positions not finite": _not_finite,
    "coinciding atoms": _coinciding,
    "no atoms": _nothing,
    "one atom": _one,
    "many atoms": _many,
    "tiny cell": _tiny_cell,
    "huge cell": _huge_cell,
    "skewed cell": _skewed,
    "left-handed cell": _left_handed,
    "singular cell": _singular,
    "nearly singular cell": _nearly_singular,
    "no cell vector": _zero_vector,
    "cell not finite": _cell_not_finite,
    "cell not reduced": _not_reduced,
    "symmetric crystal": _crystal,
    "atomic numbers": _elements,
    "fixed and tags": _marks,
    "other precisions": _precision,
}
