"""What becomes of every kind of ASE's constraints in a conversion: fixed atoms, free ones, and a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    FixSymmetry,
    Hookean,
)
from ase.io import write
from fairchem.core.datasets import LmdbDataset

from ocp_scn.data.__main__ import main

FORCES = np.arange(12.0).reshape(4, 3) - 5


def structure(constraints: Any = None) -> Atoms:
    """Return four atoms in a skewed cell with their constraints and FORCES, whatever is constrained."""
    positions = [[1.0, 1, 1], [3, 1, 1], [3, 2, 1], [3, 1, 2]]
    atoms = Atoms("CuOHH", positions=positions, cell=[[6, 0, 0], [2, 6, 0], [1, 1, 6]], pbc=True)
    if constraints == "symmetry":
        constraints = FixSymmetry(atoms)
    atoms.set_constraint(constraints)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=FORCES)
    return atoms


def converted(source: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[Any], float, str]:
    """Return the samples of a file, the stdev of the forces and what the command warns of."""
    target = source.with_name("out")
    assert main(["convert", str(source), str(target), *words]) == 0
    said = capsys.readouterr()
    stdev = json.loads((target / "conversion.json").read_text())["normalizer"]["forces"]["stdev"]
    assert f"normalizer of forces: mean 0, stdev {stdev:.6g}" in said.out
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    return list(LmdbDataset({"src": str(target / "train")})), stdev, "\n".join(warnings)


KINDS: list[tuple[Any, list[int], str]] = [  # constraints, atoms held in all directions, what is not kept
    (FixAtoms([0, 2]), [0, 2], ""),
    (FixAtoms([-1]), [3], ""),
    (FixCartesian([0, 1]), [0, 1], ""),
    (FixScaled([0, 3]), [0, 3], ""),
    ([FixCartesian([0], (1, 0, 0)), FixCartesian([0], (0, 1, 1))], [0], ""),
    ([FixedPlane([1], (0, 0, 1)), FixedLine([1], (0, 0, 1))], [1], ""),
    ([FixAtoms([0]), FixedPlane([0], (0, 0, 1))], [0], ""),
    (FixCartesian([0], (1, 0, 1)), [], "FixCartesian"),
    (FixScaled([0], (0, 1, 1)), [], "FixScaled"),
    (FixedPlane([0, 1], (0, 0, 1)), [], "FixedPlane"),
    (FixedLine([0, 1], (1, 1, 0)), [], "FixedLine"),
    (FixCom(), [], "FixCom"),
    (FixBondLength(1, 2), [], "FixBondLengths"),
    (FixBondLengths([[1, 2], [1, 3]]), [], "FixBondLengths"),
    (FixInternals(bonds=[[1.0, [1, 2]]]), [], "FixInternals"),
    (FixLinearTriatomic([(1, 2, 3)]), [], "FixLinearTriatomic"),
    (Hookean(a1=1, a2=2, rt=1.2, k=5.0), [], "Hookean"),
    (Hookean(a1=1, a2=(0, 0, 1, -5), k=5.0), [], "Hookean"),
    (ExternalForce(1, 2, 0.5), [], "ExternalForce"),
    ("symmetry", [], "FixSymmetry"),
    ([FixScaled([3]), FixCom(), Hookean(a1=1, a2=2, rt=1.2, k=5.0)], [3], "FixCom, Hookean"),
]


@pytest.mark.parametrize("name", ["frames.traj", "frames.db"])
@pytest.mark.parametrize("kind", KINDS)
def test_held_atoms_are_fixed_and_others_keep_their_forces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: tuple[Any, list[int], str]
) -> None:
    constraints, held, lost = kind
    atoms = structure(constraints)
    if name.endswith(".db"):
        with ase.db.connect(tmp_path / name) as database:
            database.write(atoms)
    else:
        write(tmp_path / name, atoms)
    (sample,), stdev, warnings = converted(tmp_path / name, capsys)
    assert sample.fixed.nonzero()[:, 0].tolist() == held
    assert sample.forces.tolist() == FORCES.tolist()
    assert stdev == pytest.approx(np.sqrt(np.square(np.delete(FORCES, held, axis=0)).mean()))
    kinds = ", ".join(f"{kind} (1 frames)" for kind in lost.split(", ")) if lost else ""
    line = f"warning: constraints not kept: {kinds}; only atoms held in all three directions are fixed"
    assert warnings == (line if lost else "")


def test_move_masks_and_columns_fix_atoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ASE reads a mask of coordinates as a constraint of each atom; a column adds to them."""
    masks = [(1, 1, 1), (1, 0, 0), (0, 0, 0), (0, 0, 0)]
    atoms = structure([FixCartesian([k], mask) for k, mask in enumerate(masks)])
    atoms.set_array("fixed", np.array([0, 0, 1, 0]))
    columns = ["symbols", "positions", "move_mask", "fixed", "forces"]
    write(tmp_path / "frames.extxyz", atoms, columns=columns)
    assert "move_mask:L:3:fixed:I:1" in (tmp_path / "frames.extxyz").read_text()
    (sample,), stdev, warnings = converted(tmp_path / "frames.extxyz", capsys)
    assert sample.fixed.tolist() == [1, 0, 1, 0]
    assert stdev == pytest.approx(np.sqrt(np.square(FORCES[[1, 3]]).mean()))
    assert "FixCartesian (1 frames)" in warnings


@pytest.mark.parametrize("column", [np.array(list("abcd")), np.zeros((4, 3))])
def test_a_column_of_fixed_atoms_has_one_number_an_atom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: np.ndarray
) -> None:
    atoms = structure()
    atoms.set_array("fixed", column)
    write(tmp_path / "frames.extxyz", atoms)
    assert main(["convert", str(tmp_path / "frames.extxyz"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "frames.extxyz#0 has fixed=[" in error
    assert "of 4 atoms; expected a 0 or 1 for each, or indices" in error


def test_a_constraint_of_an_atom_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "frames.traj", structure(FixAtoms([7])))
    assert main(["convert", str(tmp_path / "frames.traj"), str(tmp_path / "out")]) == 2
    assert "frames.traj#0 has a constraint that does not fit its atoms or cell: " in capsys.readouterr().err


@pytest.mark.parametrize("sign", ["y_relaxed", "pos_relaxed", "tags"])
def test_relaxations_without_a_fixed_atom_are_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: str
) -> None:
    """ASE's extxyz files have no constraints by themselves."""
    atoms = structure(FixAtoms([0]))
    source = tmp_path / "frames.extxyz"
    write(source, atoms)
    assert converted(source, capsys)[2] == ""  # no relaxation that one could tell
    if sign == "y_relaxed":
        atoms.info[sign] = -1.5
    else:
        atoms.set_array(sign, atoms.positions if sign == "pos_relaxed" else np.array([0, 1, 2, 2]))
    expected = "warning: no atom is fixed; where relaxations held some, a per-atom column 'fixed' has to name"
    write(source, atoms)
    samples, _, warnings = converted(source, capsys, "--overwrite")
    assert warnings.startswith(expected)
    assert not samples[0].fixed.any()
    columns = ["symbols", "positions", "forces", "move_mask", *({sign} & set(atoms.arrays))]
    write(source, atoms, columns=columns)
    samples, _, warnings = converted(source, capsys, "--overwrite")
    assert (warnings, samples[0].fixed.tolist()) == ("", [1, 0, 0, 0])
