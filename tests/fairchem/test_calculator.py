"""This package's calculator beside fairchem's, with one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairchem.core.common.relaxation.ase_utils import OCPCalculator

from ocp_scn import SCNCalculator
from ocp_scn.trained import to_fairchem1
from tests.test_calculator import REFERENCES, SMOOTH, slab, trained, with_calculator


@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["direct", "derived"])
def test_it_predicts_as_fairchems_does(tmp_path: Path, settings: dict) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(to_fairchem1(replace(trained(**settings), references=REFERENCES)), path)
    ours = with_calculator(slab(), SCNCalculator(path, device="cpu"))
    theirs = with_calculator(slab(), OCPCalculator(checkpoint_path=path, cpu=True, seed=0))
    # Theirs are of positions that were wrapped in float32; energies are rounded with the references.
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), rel=1e-6)
    scale = np.abs(theirs.get_forces()).max()
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-5 * scale)
