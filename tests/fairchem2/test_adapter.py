"""Backbone, heads and container in fairchem-core 2: physics, gradients, errors."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from fairchem.core.common import gp_utils
from fairchem.core.units.mlip_unit.mlip_unit import _get_optimizer_wd
from torch.distributed.checkpoint.state_dict import get_state_dict

from ocp_scn import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.fairchem.v2 import SCNBackbone
from ocp_scn.state_dict import keep_own_names
from tests.fairchem2.structures import (
    HERE,
    SETTINGS,
    _model,
    batch_of,
    conservative,
    crystal,
    direct,
    slab,
    water,
)


def energy_and_forces(model, data):
    out = model(data)
    return out["oc20_energy"]["energy"], out["oc20_forces"]["forces"]


def test_shapes_and_finite_numbers():
    """Energies (B,), forces (A, 3), stress (B, 9), for slab, crystal and molecule in one batch."""
    data = batch_of(slab(), crystal(), water())
    energy, forces = energy_and_forces(direct(), data)
    assert energy.shape == (3,)
    assert forces.shape == (len(slab()) + len(crystal()) + 3, 3)
    assert torch.isfinite(energy).all()
    assert torch.isfinite(forces).all()
    out = conservative(regress_stress=True)(data)
    assert list(out) == ["oc20_energy", "oc20_forces", "oc20_stress"]
    stress = out["oc20_stress"]["stress"]
    assert stress.shape == (3, 9)
    assert torch.isfinite(stress[:2]).all()
    assert stress[2].isnan().all()  # the molecule's cell is a stand-in


def test_the_backbone_computes_what_the_network_computes():
    """The adapter adds nothing to the network's numbers."""
    model, data = direct(), batch_of(slab(), crystal())
    network = BatchSCN(SCNConfig.from_settings({**SETTINGS, "otf_graph": True})).eval()
    keep_own_names(network)
    state = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    network.load_state_dict(state)
    expected = network.predict(data, stress=False, create_graph=False)
    energy, forces = energy_and_forces(model, data)
    assert torch.equal(energy, expected["energy"])
    assert torch.equal(forces, expected["forces"])


def test_mixed_boundary_conditions_do_not_matter_to_each_other():
    """A system's result is the same by itself and in a batch with other boundary conditions."""
    torch.set_default_dtype(torch.float64)
    model, systems = direct().double(), [slab(), crystal(), water()]
    energy, forces = energy_and_forces(model, batch_of(*systems, dtype=torch.float64))
    parts = [energy_and_forces(model, batch_of(system, dtype=torch.float64)) for system in systems]
    torch.testing.assert_close(energy, torch.cat([e for e, _ in parts]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces, torch.cat([f for _, f in parts]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("version", [2, 3])
def test_graphs_of_fairchem_agree(version):
    """The faster searches find the same edges; sums in another order round differently."""
    systems = batch_of(slab(), crystal(), water())
    expected = energy_and_forces(direct(), systems)
    found = energy_and_forces(direct(radius_pbc_version=version), systems)
    for first, second in zip(expected, found, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=2e-6 * float(first.abs().max()))


@pytest.mark.parametrize("version", [2, 3])
def test_every_search_keeps_ties_and_sees_far_systems_nearby(version):
    """In ideal copper the twentieth neighbour is one of 24."""
    config = SCNConfig(**{**SETTINGS, "otf_graph": True, "cutoff": 6.0, "keep_tied_neighbors": True})
    far = water()
    far.positions += 2.0**21
    batch = batch_of(bulk("Cu"), far, dtype=torch.float64)
    search = SCNBackbone(**{**SETTINGS, "radius_pbc_version": version}).search
    expected, found = batch_graph(batch, config), batch_graph(batch, config, search)
    assert found.sizes == expected.sizes
    assert sum(found.sizes) == 12 + 6 + 24 + 6
    lengths = [graph.vec.norm(dim=1).sort().values for graph in (found, expected)]
    torch.testing.assert_close(lengths[0], lengths[1], rtol=0, atol=1e-9)


def test_gradient_forces_and_stress_are_the_energys_derivatives():
    """Central differences in float64, of positions and of strained cells."""
    torch.set_default_dtype(torch.float64)
    model, atoms, step = conservative(regress_stress=True).double(), crystal(), 1e-4

    def energy(moved):
        return float(model(batch_of(moved, dtype=torch.float64))["oc20_energy"]["energy"].detach())

    out = model(batch_of(atoms, dtype=torch.float64))
    for atom, axis in [(0, 0), (3, 2)]:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(energy(moved))
        expected = -(ends[0] - ends[1]) / (2 * step)
        assert float(out["oc20_forces"]["forces"][atom, axis]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        strain = np.eye(3) + sign * step * np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])
        moved.set_cell(atoms.cell @ strain, scale_atoms=True)
        ends.append(energy(moved))
    expected = (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()
    found = out["oc20_stress"]["stress"].reshape(3, 3)
    assert float(found[0, 1]) == pytest.approx(expected, rel=1e-5, abs=1e-10)
    torch.testing.assert_close(found, found.T)


@pytest.mark.parametrize("system", [Atoms("Cu"), Atoms("Cu", cell=[20, 20, 20], pbc=True)])
@pytest.mark.parametrize("make", [direct, conservative])
def test_a_single_atom(system, make):
    """An atom without neighbours has a finite energy and no gradient force."""
    energy, forces = energy_and_forces(make(), batch_of(system))
    assert torch.isfinite(energy).all()
    assert torch.isfinite(forces).all()
    if make is conservative:
        assert forces.abs().max() == 0


@pytest.mark.parametrize(
    "model",
    [
        direct(),
        conservative(),
        _model({**SETTINGS, "regress_forces": False}, {"energy": {"module": f"{HERE}.EnergyHead"}}),
    ],
    ids=["direct", "conservative", "energy only"],
)
def test_every_weight_is_trained(model):
    """Data-parallel training in fairchem 2 fails at weights without a gradient."""
    out = model.train()(batch_of(slab(), crystal()))
    sum(value.square().sum() for task in out.values() for value in task.values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_gradient_forces_keep_a_graph_only_where_weights_are_trained():
    """Predictions of frozen weights need no gradient, trained ones do; no_grad changes only the rounding."""
    model, data = conservative(), batch_of(slab())
    _, forces = energy_and_forces(model, data)
    assert forces.requires_grad
    with torch.no_grad():
        _, evaluated = energy_and_forces(model, data)
    with torch.inference_mode():
        _, inferred = energy_and_forces(model, batch_of(slab()))
    assert not evaluated.requires_grad
    assert not inferred.requires_grad
    for found in (evaluated, inferred):
        torch.testing.assert_close(
            found, forces.detach(), rtol=0, atol=2e-6 * float(forces.detach().abs().max())
        )
    model.requires_grad_(False)
    assert not energy_and_forces(model, data)[1].requires_grad


def test_weights_bear_the_names_of_the_modules():
    """fairchem 2 looks every weight of a state dict up by its name when it saves a training."""
    model = direct()
    optimizer = torch.optim.AdamW(model.parameters())
    sum(task.sum() for head in model(batch_of(slab())).values() for task in head.values()).backward()
    optimizer.step()
    weights, states = get_state_dict(model, optimizer)
    assert set(states["state"]) == {name for name, _ in model.named_parameters()} == set(weights)


def test_weight_decay_spares_biases_and_embeddings():
    """In the optimiser that fairchem makes."""
    model = direct()
    optimizer = _get_optimizer_wd(partial(torch.optim.AdamW, weight_decay=0.1), model)
    spared, decayed = optimizer.param_groups
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0, 0.1)
    expected = {w for name, w in model.named_parameters() if w.ndim == 1 or "embedding" in name}
    assert 0 < len(expected) < len(list(model.parameters()))
    assert set(spared["params"]) == expected
    assert set(decayed["params"]) == set(model.parameters()) - expected


def test_graph_parallelism_is_refused(tmp_path):
    """fairchem sums forces over the workers that share a system; each of ours has all of them."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        gp_utils.setup_graph_parallel_groups(1, "gloo")
        with pytest.raises(InputError, match="set workers=1"):
            direct()(batch_of(slab()))
    finally:
        gp_utils.cleanup_gp()
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lmx": 3}, "unknown model setting 'lmx'; did you mean 'lmax'"),
        ({"otf_graph": False}, "otf_graph=False; expected True"),
        ({"radius_pbc_version": 4}, "radius_pbc_version=4; expected 1, 2 or 3"),
        ({"radius_pbc_version": 3, "max_num_neighbors": -1}, "max_num_neighbors=-1; expected a number"),
        ({"cutoff": math.nan}, "cutoff=nan"),
        ({"compute_dtype": "tf16"}, "compute_dtype='tf16'; expected one of float32, tf32, bfloat16"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        SCNBackbone(**{**SETTINGS, **settings})


def test_heads_and_backbone_have_to_fit():
    energy = {"oc20_energy": {"module": f"{HERE}.EnergyHead"}}
    with pytest.raises(InputError, match="readout of forces that no head takes"):
        _model(SETTINGS, energy)
    with pytest.raises(InputError, match="ForceHead on a backbone with regress_forces=False"):
        _model({**SETTINGS, "regress_forces": False}, {"forces": {"module": f"{HERE}.ForceHead"}})
    with pytest.raises(InputError, match="ConservativeHead on a backbone with direct_forces=True"):
        _model(SETTINGS, {"all": {"module": f"{HERE}.ConservativeHead"}}, pass_through_head_outputs=True)


def test_bad_structures_are_named():
    """Two atoms at one place, and an element beyond the model's."""
    with pytest.raises(InputError, match="are at one place"):
        direct()(batch_of(Atoms("Cu2", positions=np.zeros((2, 3)))))
    with pytest.raises(InputError, match="atomic number 92"):
        direct()(batch_of(Atoms("U")))
