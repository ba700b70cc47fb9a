"""Forces and stress as derivatives, and the smooth mode."""

import math

import pytest
import torch
from torch_geometric.data import Data

from ocp_scn import SphericalChannelNetwork
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.gradients import edge_gradients, forces_from_edges, stress_from_edges
from ocp_scn.graph import Graph
from tests.structures import PERIODIC, batch_of, bulk, crystal, molecule, slab
from tests.weights import strengthen

SETTINGS = {
    "direct_forces": False,
    "lmax": 3,
    "num_interactions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 5,
    "hidden_channels": 12,
    "num_basis_functions": 7,
    "num_sphere_samples": 18,
    "distance_resolution": 0.5,
    "cutoff": 5.0,
    "otf_graph": True,
}
UNCAPPED = {"num_resolutions": 1, "max_num_neighbors": -1}
SMOOTH = {**UNCAPPED, "smooth": True, "mmax": 0}


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def model_with(**changes):
    """Return a model in evaluation mode with weights that let neighbours matter."""
    torch.manual_seed(1)
    return strengthen(SphericalChannelNetwork(**SETTINGS | changes).eval())


def axis_cross():
    """Return an atom with neighbours along both senses of every axis, at different distances."""
    arms = torch.cat([torch.diag(torch.tensor([1.6, 1.9, 2.2])), -torch.diag(torch.tensor([1.8, 2.1, 2.4]))])
    numbers = torch.tensor([29, 8, 6, 7, 1, 78, 47])
    return Data(
        pos=torch.cat([torch.zeros(1, 3), arms]),
        cell=torch.zeros(1, 3, 3),
        atomic_numbers=numbers,
        natoms=torch.tensor([7]),
        pbc=~PERIODIC,
    )


def with_isolated_atom():
    """Return a molecule and an atom that no other reaches."""
    part = molecule(4, 0)
    part.pos = torch.cat([part.pos, torch.tensor([[40.0, 0.0, 0.0]])])
    part.atomic_numbers = torch.cat([part.atomic_numbers, torch.tensor([6])])
    part.natoms = torch.tensor([5])
    return part


def numerical(function, value, step=3e-4):
    """Return the derivative of a number by each entry of a tensor, by differences of fourth order."""
    result = torch.zeros_like(value)
    for index in range(value.numel()):
        shift = torch.zeros_like(value).view(-1)
        shift[index] = step
        shift = shift.view_as(value)
        near = function(value + shift) - function(value - shift)
        far = function(value + 2 * shift) - function(value - 2 * shift)
        result.view(-1)[index] = (8 * near - far) / (12 * step)
    return result


STRUCTURES = {
    "edges along the axes": axis_cross,
    "edges along the axes of a crystal": lambda: crystal(2.6),
    "one atom and its images": lambda: bulk(1, 0, edge=3.0),
    "a skewed cell": lambda: bulk(5, 3),
    "a slab": lambda: slab(4, 1),
    "an isolated atom": with_isolated_atom,
}


@pytest.mark.parametrize("changes", [{}, {"mmax": 2, "num_taps": 1}, SMOOTH], ids=["m1", "m2", "smooth"])
@pytest.mark.parametrize("make", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_forces_are_the_derivative(make, changes):
    """Forces are -dE/dpos to 1e-7 of the largest, by differences of the energy."""
    # No cap: at equal distances it would choose other neighbours on either side of the difference.
    model, data = model_with(**UNCAPPED | changes), batch_of(make())

    def energy(pos):
        moved = data.clone()
        moved.pos = pos
        with torch.no_grad():
            return model(moved)["energy"].sum()

    forces = model(data)["forces"]
    assert torch.isfinite(forces).all()
    scale = max(forces.abs().max().item(), 1e-3)
    torch.testing.assert_close(forces, -numerical(energy, data.pos), rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("changes", [{}, SMOOTH], ids=["m1", "smooth"])
def test_stress_is_the_derivative_by_strain(changes):
    """Stress x volume is dE/dstrain for symmetric strains of atoms and cell, for each system."""
    model = model_with(regress_stress=True, **UNCAPPED | changes)
    data = batch_of(bulk(4, 0), bulk(3, 5))

    def energies(strain):
        strain = (strain + strain.mT) / 2
        moved = data.clone()
        moved.pos = data.pos + (data.pos[:, None] @ strain[data.batch]).squeeze(1)
        moved.cell = data.cell + data.cell @ strain
        with torch.no_grad():
            return model(moved)["energy"].sum()

    stress = model(data)["stress"]
    assert stress.shape == (2, 3, 3)
    expected = numerical(energies, torch.zeros(2, 3, 3))
    volume = torch.linalg.det(data.cell)[:, None, None]
    torch.testing.assert_close(stress * volume, expected, rtol=0, atol=1e-7 * expected.abs().max().item())


def test_second_derivatives():
    """Training on gradient forces differentiates twice: d(forces)/d(weight) agrees with differences."""
    model, data = model_with().train(), batch_of(molecule(4, 0))
    direction = torch.randn(4, 3)
    weight = model.edge_blocks[0].messages[0].fc2.weight

    def loss():
        torch.manual_seed(5)  # the same rolls
        return (model(data)["forces"] * direction).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    assert gradient.abs().max() > 1e-6
    for index in ((0, 0), (3, 7)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * 1e-4
                values.append(loss().item())
                weight[index] -= sign * 1e-4
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5, abs=1e-9)


def test_every_parameter_learns_from_gradient_forces():
    """All weights but the energy's last offset affect gradient forces."""
    model = model_with(num_resolutions=1).train()
    out = model(batch_of(molecule(6, 0)))
    out["forces"].square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == ["energy_head.fc3.bias"]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_keeps_no_graph(context):
    """Under no_grad and in inference mode there are forces, the same ones, that hang on nothing."""
    model, data = model_with(regress_stress=True), batch_of(bulk(4, 0))
    expected = model(data)
    with context():
        found = model(data)
        inside = model(batch_of(bulk(4, 0)))  # tensors made in the context
    for name, value in found.items():
        assert not value.requires_grad
        # Up to rounding: torch computes derivatives that it keeps in other steps.
        torch.testing.assert_close(value, expected[name].detach(), rtol=1e-11, atol=1e-12)
        assert torch.equal(inside[name], value)


def test_single_atoms():
    """Without any edge gradient forces are zero, in training too."""
    for model in (model_with(), model_with().train()):
        out = model(batch_of(molecule(1, 0), molecule(1, 1)))
        assert torch.equal(out["forces"].detach(), torch.zeros(2, 3))
        (out["energy"].sum() + out["forces"].square().sum()).backward()


def test_frozen_weights():
    """Forces need no weight that requires a gradient."""
    model, data = model_with(), batch_of(bulk(4, 0))
    expected = model(data)["forces"]
    frozen = model.requires_grad_(False)(data)["forces"]
    # Without the weights' part of the graph, autograd may add derivatives in another order.
    torch.testing.assert_close(frozen, expected.detach(), rtol=0, atol=1e-14 * expected.abs().max().item())


def test_forces_of_equal_and_opposite_ends():
    """Each edge pulls its ends with opposite forces, so gradient forces sum to zero in each system."""
    data = batch_of(bulk(5, 0), molecule(4, 1))
    forces = model_with()(data)["forces"]
    sums = torch.zeros(2, 3).index_add(0, data.batch, forces)
    assert sums.abs().max() < 1e-12 * forces.abs().max() * len(forces)


def test_stress_of_a_spring():
    """E = |vec|^2 / 2 over both directions of a pair's edge: forces -2 vec, virial 2 vec vec^T."""
    vec = torch.tensor([[0.0, 3.0, 1.0], [0.0, -3.0, -1.0]], requires_grad=True)
    graph = Graph(torch.tensor([1, 0]), torch.tensor([0, 1]), vec, (2,))
    energy = vec.square().sum()[None] / 2
    gradient = edge_gradients(energy, vec, create_graph=False)
    forces = forces_from_edges(gradient, graph, 2)
    assert torch.equal(forces, torch.tensor([[0.0, 6.0, 2.0], [0.0, -6.0, -2.0]]))
    cell = torch.stack([2 * torch.eye(3), torch.zeros(3, 3)])
    stress = stress_from_edges(gradient, graph, torch.tensor([0, 0]), cell)
    one = vec[0].detach()
    torch.testing.assert_close(stress[0].detach(), 2 * torch.outer(one, one) / 8)
    assert stress[1].isnan().all()  # no volume


def test_an_undefined_stress_leaves_gradients_finite():
    """A training on slabs and molecules: no label of a molecule's stress, and a gradient by all weights."""
    model = model_with(regress_stress=True).train()
    out = model(batch_of(bulk(4, 0), molecule(4, 1)))
    assert out["stress"][1].isnan().all()
    known = torch.tensor([True, False])
    out["stress"][known].square().sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in found)
    assert any(gradient.any() for gradient in found)


# --- the smooth mode ------------------------------------------------------------------------------


def walk(model, structure, atom, displacements):
    """Return energies (P,) and forces (P, A, 3) with one atom displaced, P times."""
    energies, forces = [], []
    for displacement in displacements:
        moved = structure.clone()
        moved.pos = structure.pos.clone()
        moved.pos[atom] += displacement
        with torch.no_grad():
            out = model(batch_of(moved))
        energies.append(out["energy"][0])
        forces.append(out["forces"])
    return torch.stack(energies), torch.stack(forces)


def jump(model, structure, atom, before, after):
    """Return how far energy and forces change between two displacements 2e-6 Å apart."""
    energies, forces = walk(model, structure, atom, [before, after])
    return (energies[1] - energies[0]).abs().item(), (forces[1] - forces[0]).abs().max().item()


def pair(distance, third=None):
    """Return atoms on a line that no axis is parallel to, the second ``distance`` from the first."""
    line = torch.tensor([0.6, 0.48, 0.64])
    places = [torch.zeros(3), distance * line]
    if third is not None:
        places.append(third)
    return Data(
        pos=torch.stack(places),
        cell=torch.zeros(1, 3, 3),
        atomic_numbers=torch.tensor([29, 8, 6][: len(places)]),
        natoms=torch.tensor([len(places)]),
        pbc=~PERIODIC,
    )


def test_smooth_when_an_atom_crosses_the_cutoff():
    """Energy and forces are continuous there; without the envelope both jump."""
    line, third = torch.tensor([0.6, 0.48, 0.64]), torch.tensor([1.0, -1.5, 0.3])
    crossing = (pair(5.0, third), 1, -1e-6 * line, 1e-6 * line)
    energy, forces = jump(model_with(**SMOOTH), *crossing)
    assert energy < 1e-9
    assert forces < 1e-9
    rough = model_with(**SMOOTH | {"smooth": False})
    energy, forces = jump(rough, *crossing)
    assert energy > 1e-6
    assert forces > 1e-6


def test_smooth_when_neighbours_change_ranks():
    """Energy and forces are continuous where two neighbours swap; with a cap they jump."""
    third = 2.0 * torch.tensor([-0.48, 0.6, 0.64])  # as far as the second
    line = torch.tensor([0.6, 0.48, 0.64])
    swap = (pair(2.0, third), 1, -1e-6 * line, 1e-6 * line)
    for energy_and_forces, bound in ((jump(model_with(**SMOOTH), *swap), 1e-4),):
        assert max(energy_and_forces) < bound
    capped = model_with(**SMOOTH | {"smooth": False, "max_num_neighbors": 1})
    assert max(jump(capped, *swap)) > 1e-3


def test_smooth_along_a_closed_path():
    """The work of the forces along a closed path that crosses the cutoff is zero: they are conservative."""
    model = model_with(**SMOOTH)
    steps = 400
    angles = 2 * math.pi * torch.arange(steps) / steps
    circle = torch.stack([1.2 * angles.cos() - 1.2, 1.2 * angles.sin(), 0.5 * angles.sin()], dim=1)
    velocity = torch.stack([-1.2 * angles.sin(), 1.2 * angles.cos(), 0.5 * angles.cos()], dim=1)
    structure = pair(5.3, torch.tensor([1.0, -1.5, 0.3]))
    assert 0 < len(find_edges(batch_of(structure), model.config)[0]) < 6  # starts beyond the cutoff
    energies, forces = walk(model, structure, 1, circle)
    assert energies.max() - energies.min() > 1e-3
    work = (forces[:, 1] * velocity).sum() * 2 * math.pi / steps
    assert abs(work.item()) < 1e-6 * (energies.max() - energies.min()).item()


def test_smooth_energy_does_not_depend_on_the_frame():
    """With mmax 0 neither the roll nor a rotation of frames matters: random rolls give the same."""
    data = batch_of(bulk(5, 0))
    fixed, random = model_with(**SMOOTH)(data), model_with(**SMOOTH, evaluation_roll="random")(data)
    torch.testing.assert_close(random["energy"], fixed["energy"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(random["forces"], fixed["forces"], rtol=1e-10, atol=1e-10)
