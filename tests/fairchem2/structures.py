"""Structures, batches and models for fairchem-core 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.constraints import FixAtoms
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

from ocp_scn.fairchem.v2 import SCNModel
from tests.settings import SETTINGS
from tests.weights import strengthen

HERE = "ocp_scn.fairchem.v2"
# A continuous energy surface, where derivatives can be compared with differences.
SMOOTH = {"smooth": True, "max_num_neighbors": -1, "num_resolutions": 1, "mmax": 0}


def slab(seed: int = 0, metal: str = "Cu") -> Atoms:
    """Return a rattled slab with an adsorbate, its lower atoms fixed."""
    atoms = fcc111(metal, (2, 2, 3), vacuum=7.0, periodic=True)
    add_adsorbate(atoms, "O", 1.4, "fcc")
    atoms.set_tags([0] * 8 + [1] * 4 + [2])
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
    atoms.positions += np.random.default_rng(seed).normal(scale=0.08, size=atoms.positions.shape)
    return atoms


def crystal() -> Atoms:
    """Return a rattled copper crystal."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=3)
    return atoms


def water() -> Atoms:
    """Return a molecule without a cell."""
    return molecule("H2O")


def batch_of(*structures: Atoms, dtype: torch.dtype = torch.float32) -> AtomicData:
    """Return a batch of the data set oc20."""
    return atomicdata_list_to_batch(
        [AtomicData.from_ase(atoms, task_name="oc20", target_dtype=dtype) for atoms in structures]
    )


def direct(**changes: Any) -> SCNModel:
    """Return a model with a readout of forces, whose forces are of the order of their summands."""
    heads = {"oc20_energy": {"module": f"{HERE}.EnergyHead"}, "oc20_forces": {"module": f"{HERE}.ForceHead"}}
    return _model({**SETTINGS, **changes}, heads)


def conservative(**changes: Any) -> SCNModel:
    """Return a model whose forces are derivatives of the energy."""
    heads = {"derivatives": {"module": f"{HERE}.ConservativeHead", "prefix": "oc20"}}
    settings = {**SETTINGS, **SMOOTH, "direct_forces": False, **changes}
    return _model(settings, heads, pass_through_head_outputs=True)


def _model(settings: dict[str, Any], heads: dict[str, Any], **container: Any) -> SCNModel:
    torch.manual_seed(1)
    model = SCNModel(backbone={"model": f"{HERE}.SCNBackbone", **settings}, heads=heads, **container)
    return strengthen(model).eval()
