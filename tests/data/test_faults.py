"""Structures that no data set may have are named; unusual ones are none of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ocp_scn.data.faults import find_fault
from ocp_scn.data.frames import Frame


def fault_of(atoms: Atoms) -> str | None:
    frame = Frame(atoms, "a", 0, 1.0, np.zeros((len(atoms), 3)), "a.traj#0")
    return find_fault(frame, max_num_elements=90, min_distance=0.5)


def place(atoms: Atoms, value: float) -> None:
    atoms.positions[0, 1] = value


def cell(atoms: Atoms, rows: object) -> None:
    atoms.cell[:] = rows


def element(atoms: Atoms, number: int) -> None:
    atoms.numbers[0] = number


def far_part(atoms: Atoms) -> None:
    atoms.pbc = False
    atoms.positions[0, 2] += 1e5


FAULTS: dict[str, Callable[[Atoms], object]] = {
    "not finite: positions": lambda atoms: place(atoms, np.nan),
    "not finite: cell": lambda atoms: cell(atoms, np.inf),
    "positions beyond 1e+09 Å": lambda atoms: place(atoms, 1e300),
    "atoms further apart than 8.4e+04 Å": far_part,
    "element -1 is below 0": lambda atoms: element(atoms, -1),
    "element 119 is beyond 89": lambda atoms: element(atoms, 119),
    "images of the cell": lambda atoms: cell(atoms, np.diag([5, 1e-5, 1e-5])),
    "has no volume": lambda atoms: cell(atoms, [[4, 0, 0], [0, 4, 0], [2, 2, 1e-8]]),
    "atoms overlap": lambda atoms: cell(atoms, np.diag([4, 4, 0.4])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str) -> None:
    atoms = bulk("Cu", cubic=True)
    FAULTS[fault](atoms)
    assert fault in fault_of(atoms)


GOOD = {
    "crystal": bulk("Cu"),
    "a cell of 1.1 Å": Atoms("H", cell=[1.1, 1.1, 1.1], pbc=True),
    "molecule far away": Atoms("H2", [[3e8, 0, 0], [3e8 + 1, 0, 0]]),
    "atoms in other cells": Atoms("H2", [[0, 0, 0], [3e6 + 1, 0, 0]], cell=[3, 3, 3], pbc=True),
    "without a cell": molecule("H2O"),
    "left-handed": Atoms("Cu", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True),
}


@pytest.mark.parametrize("atoms", GOOD.values(), ids=GOOD.keys())
def test_unusual_structures_have_none(atoms: Atoms) -> None:
    assert fault_of(atoms) is None
