"""This package's calculator beside fairchem's, with one inference checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairchem.core import FAIRChemCalculator

from ocp_scn import SCNCalculator
from ocp_scn.fairchem.v2 import load_predict_unit
from ocp_scn.fairchem.v2.checkpoint import build
from tests.fairchem2.structures import crystal, slab
from tests.test_calculator import REFERENCES, SMOOTH, trained, with_calculator


@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["direct", "derived"])
def test_it_predicts_as_fairchems_does(tmp_path: Path, settings: dict) -> None:
    path = tmp_path / "inference_ckpt.pt"
    torch.save(build(replace(trained(**settings), references=REFERENCES), "oc20"), path)
    calculators = [
        SCNCalculator(path, device="cpu"),
        FAIRChemCalculator(load_predict_unit(path, device="cpu"), task_name="oc20"),
    ]
    for atoms in (slab(), crystal()):
        ours, theirs = (with_calculator(atoms, calculator) for calculator in calculators)
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), rel=1e-6)
        scale = np.abs(theirs.get_forces()).max()
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-5 * scale)
        if settings:
            scale = np.abs(theirs.get_stress()).max()
            np.testing.assert_allclose(ours.get_stress(), theirs.get_stress(), atol=1e-5 * scale)
