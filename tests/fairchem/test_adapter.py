"""The model on fairchem's batches: determinism, errors, invariances, initial weights."""

import math
import re
from collections import defaultdict

import pytest
import torch
from ase import Atoms
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.models.scn.scn import SphericalChannelNetwork as BuiltIn
from scipy.stats import ks_2samp
from torch_geometric.data import Batch

from ocp_scn import InputError, SphericalChannelNetwork
from ocp_scn.fairchem import batches
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.sphere import edge_frames
from ocp_scn.state_dict import to_checkpoint_name
from tests.structures import batch_of, bulk, molecule, slab
from tests.weights import strengthen

SETTINGS = {
    "lmax": 4,
    "num_interactions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 5,
    "hidden_channels": 12,
    "num_basis_functions": 7,
    "num_sphere_samples": 16,
    "max_num_elements": 90,
    "distance_resolution": 0.2,
    "cutoff": 6.0,
    "otf_graph": True,
}


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def model_with(**changes):
    """Return a model in evaluation mode whose forces are of the order of their summands."""
    torch.manual_seed(1)
    return strengthen(SphericalChannelNetwork(**SETTINGS | changes).eval())


def data_of(*structures, sids=None):
    """Return a batch of ``structures`` that bear names."""
    named = [structure.clone() for structure in structures]
    for i, structure in enumerate(named):
        structure.sid = sids[i] if sids else f"system-{i}"
    return batch_of(*named)


def assert_close(first, second, tolerance=1e-12):
    assert list(first) == list(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


def test_outputs():
    """Energies (B,) and forces (A, 3); without regress_forces, energies only."""
    data = data_of(bulk(6, 0), slab(5, 1))
    out = model_with()(data)
    assert {name: tuple(value.shape) for name, value in out.items()} == {"energy": (2,), "forces": (11, 3)}
    assert all(torch.isfinite(value).all() for value in out.values())
    energy_only = model_with(regress_forces=False)(data)
    assert list(energy_only) == ["energy"]


def test_evaluation_is_deterministic():
    """In evaluation the same input gives the same bits, whatever the state of the generator."""
    model, data = model_with(), data_of(bulk(8, 0))
    torch.manual_seed(1)
    first = model(data)
    torch.manual_seed(2)
    second = model(data)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_draws_rolls():
    """In training two calls differ, and the same seed gives the same bits."""
    model, data = model_with().train(), data_of(bulk(8, 0))
    torch.manual_seed(1)
    first, second = model(data), model(data)
    torch.manual_seed(1)
    again = model(data)
    assert all(not torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_rolls_are_uniform(monkeypatch):
    """In training rolls are uniform on [0, 2 pi)."""
    rolls = []

    def recorded(vec, roll):
        rolls.append(roll)
        return edge_frames(vec, roll)

    monkeypatch.setattr(batches, "edge_frames", recorded)
    model_with(num_interactions=1).train()(data_of(*[bulk(12, seed) for seed in range(4)]))
    values = torch.cat(rolls)
    assert len(values) > 500
    assert ((values >= 0) & (values < 2 * math.pi)).all()
    for order in (1, 2, 3):  # Fourier coefficients of a uniform sample: five standard errors
        assert torch.polar(torch.ones_like(values), order * values).mean().abs() < 5 / math.sqrt(len(values))


def test_no_neighbour():
    """An atom without neighbours has a finite energy and force, and leaves the others alone."""
    model, small = model_with(), molecule(5, 0)
    far = small.clone()
    far.pos = torch.cat([small.pos, small.pos[:1] + 100])
    far.atomic_numbers = torch.cat([small.atomic_numbers, torch.tensor([8])])
    far.natoms = small.natoms + 1
    source, target, _ = find_edges(data_of(far), model.config)
    assert 5 not in torch.cat([source, target])
    out = model(data_of(far))
    assert torch.isfinite(out["energy"]).all()
    assert torch.isfinite(out["forces"]).all()
    torch.testing.assert_close(out["forces"][:5], model(data_of(small))["forces"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changes", [{}, {"num_resolutions": 1, "num_taps": 1}, {"use_grid": False, "mmax": 0}]
)
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_no_edge(changes, mode):
    """A batch of single atoms, without any edge: energies depend on the element, through the grid network."""
    atoms = [molecule(1, seed) for seed in (0, 1, 2)]
    atoms[2].atomic_numbers = atoms[0].atomic_numbers
    data = data_of(*atoms)
    model = model_with(**changes).train(mode)
    assert len(find_edges(data, model.config)[0]) == 0
    out = model(data)
    assert out["energy"].shape == (3,)
    assert torch.isfinite(out["forces"]).all()
    assert torch.equal(out["energy"][0], out["energy"][2])
    assert torch.equal(out["energy"][0], out["energy"][1]) is not model.config.use_grid
    (out["energy"].sum() + out["forces"].square().sum()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("use_pbc_single", [True, False])
def test_place_in_the_batch(use_pbc_single):
    """A structure's energy and forces are the same alone and anywhere in a batch."""
    model = model_with(use_pbc_single=use_pbc_single)
    parts = [bulk(6, 0), slab(5, 1), bulk(3, 2)]
    alone = [model(data_of(part)) for part in parts]
    for order in ([0, 1, 2], [2, 0, 1]):
        out = model(data_of(*[parts[i] for i in order]))
        forces = out["forces"].split([len(parts[i].pos) for i in order])
        for place, i in enumerate(order):
            in_batch = {"energy": out["energy"][place : place + 1], "forces": forces[place]}
            assert_close(in_batch, alone[i])


def test_translation():
    """Moving all atoms together changes nothing, across the periodic boundary or not."""
    # Without a cap, which would choose between images at equal distances by rounding.
    model, parts = model_with(max_num_neighbors=1000), [bulk(7, 0), slab(5, 1), molecule(6, 2)]
    moved = [part.clone() for part in parts]
    for part in moved:
        part.pos = part.pos + torch.tensor([0.3, -1.7, 2.2])
    assert_close(model(data_of(*moved)), model(data_of(*parts)), 1e-11)


def test_permutation():
    """Renumbering atoms renumbers forces and leaves the energy."""
    model, structure = model_with(max_num_neighbors=1000), bulk(9, 0)
    order = torch.randperm(9)
    shuffled = structure.clone()
    shuffled.pos, shuffled.atomic_numbers = structure.pos[order], structure.atomic_numbers[order]
    before, after = model(data_of(structure)), model(data_of(shuffled))
    assert_close(after, {"energy": before["energy"], "forces": before["forces"][order]}, 1e-11)


def test_elements_matter():
    """Another element at one atom changes the energy."""
    model, structure = model_with(), bulk(5, 0)
    other = structure.clone()
    other.atomic_numbers = structure.atomic_numbers.roll(1)
    assert (model(data_of(structure))["energy"] - model(data_of(other))["energy"]).abs() > 1e-3


def test_float_atomic_numbers():
    """Atomic numbers in floating point, as OC20's files have them, are taken too."""
    model, data = model_with(), data_of(bulk(5, 0))
    before = model(data)
    data.atomic_numbers = data.atomic_numbers.float()
    assert_close(model(data), before, 0)


def test_batch_is_left_alone():
    """A call changes nothing in its batch."""
    data = data_of(bulk(5, 0), slab(4, 1))
    before = data.clone()
    model_with()(data)
    now, then = data.to_dict(), before.to_dict()
    assert list(now) == list(then)
    for key, value in now.items():
        assert torch.equal(value, then[key]) if torch.is_tensor(value) else value == then[key], key


def test_no_autograd_graph_in_inference():
    """Under no_grad, and in inference mode, predictions hang on nothing."""
    model, data = model_with(), data_of(bulk(5, 0))
    with torch.no_grad():
        assert all(value.grad_fn is None and not value.requires_grad for value in model(data).values())
    with torch.inference_mode():
        assert all(value.grad_fn is None for value in model(data).values())
    assert all(value.grad_fn is not None for value in model(data).values())


def test_every_parameter_has_a_gradient():
    """Energy and forces together reach every weight."""
    model, data = model_with(distance_function="silu").train(), data_of(bulk(9, 0))
    out = model(data)
    (out["energy"].square().sum() + out["forces"].square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("whole", [False, True], ids=["compute_dtype", "autocast"])
@pytest.mark.parametrize("changes", [{"num_taps": 1}, {"num_taps": 4, "num_bands": 2}])
def test_mixed_precision(changes, whole):
    """With products in bfloat16, or all under autocast, derivatives are float32's to bfloat16's precision."""
    torch.set_default_dtype(torch.float32)
    data = batch_of(bulk(9, 0), dtype=torch.float32)
    found = []
    for mixed in (False, True):
        dtype = "bfloat16" if mixed and not whole else "float32"
        model = model_with(**changes, compute_dtype=dtype, training_roll="fixed").train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed and whole):
            out = model(data)
            loss = out["energy"].float().sum() + out["forces"].float().square().sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in found[1])
    (exact, *exact_gradients), (mixed, *mixed_gradients) = found
    assert mixed.item() == pytest.approx(exact.item(), rel=0.05)
    exact, mixed = (torch.cat([g.flatten() for g in gs]) for gs in (exact_gradients, mixed_gradients))
    assert torch.cosine_similarity(exact, mixed, dim=0) > 0.98


@pytest.mark.parametrize("changes", [{"num_taps": 1}, {"num_taps": 4, "num_bands": 2}])
def test_products_in_bfloat16(changes):
    """Everything outside the products of compute_dtype stays float32: energies and forces beat autocast's."""
    torch.set_default_dtype(torch.float32)
    data = batch_of(bulk(9, 0), bulk(6, 1), dtype=torch.float32)
    exact, fast = model_with(**changes), model_with(**changes, compute_dtype="bfloat16")
    expected, found = exact(data), fast(data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = exact(data)
    assert {value.dtype for value in found.values()} == {torch.float32}
    for key, value in expected.items():  # the weights are much stronger than trained ones
        assert (found[key] - value).norm() < 0.05 * value.norm()
        error, rough_error = ((out[key] - value).norm() for out in (found, rough))
        assert 0 < error < rough_error


def losses(dtype, **changes):
    """Return the losses of a short training, in float16 with a scaler as fairchem's ``--amp`` has on GPUs."""
    model, data = model_with(**changes, training_roll="fixed").train(), batch_of(bulk(9, 0), slab(6, 1))
    model, data = model.float(), data.apply(lambda x: x.float() if x.is_floating_point() else x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, amsgrad=True)
    scaler, found = torch.GradScaler("cpu", enabled=dtype == torch.float16), []
    for _ in range(25):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            out = model(data)
            loss = 2 * out["energy"].abs().mean() + 100 * out["forces"].float().norm(dim=1).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100)
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.item())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    return found


@pytest.mark.parametrize(
    "changes", [{"num_taps": 1}, {"num_taps": 4, "num_bands": 2}, {"direct_forces": False}]
)
def test_training_in_float16(changes):
    """The scaler finds its scale within a few steps, and the loss falls as in float32."""
    torch.set_default_dtype(torch.float32)
    expected, found = losses(torch.float32, **changes), losses(torch.float16, **changes)
    assert all(math.isfinite(loss) for loss in found)
    assert found[0] == pytest.approx(expected[0], rel=0.02)
    assert found[0] - found[-1] > 0.7 * (expected[0] - expected[-1]) > 0.2 * expected[0]


# --- structures that the model refuses ------------------------------------------------------------


def broken(change, atom=2, system=1):
    """Return a batch whose system number ``system`` is changed at ``atom``."""
    parts = [bulk(4, 0), bulk(5, 1), bulk(3, 2)]
    change(parts[system], atom)
    return data_of(*parts, sids=["a-0", "b-1", "c-2"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_position_that_is_not_finite(value):
    """The error names the system, the atom in it and the position."""

    def change(structure, atom):
        structure.pos[atom, 1] = value

    with pytest.raises(InputError, match=rf"position \[.*{value}.*\] in system b-1, atom 2; expected finite"):
        model_with()(broken(change))


def test_cell_that_is_not_finite():
    """A cell with NaN is refused."""

    def change(structure, _):
        structure.cell[0, 0, 0] = float("nan")

    with pytest.raises(InputError, match="cell"):
        model_with()(broken(change))


@pytest.mark.parametrize("images", [(0, 0, 0), (1, 0, 0), (0, -1, 2)])
def test_two_atoms_at_one_place(images):
    """Atoms nearer than 0.01 Å are refused, also through the periodic boundary, with system and atoms."""

    def change(structure, atom):
        offset = torch.tensor(images, dtype=torch.float64) @ structure.cell[0]
        structure.pos[4] = structure.pos[atom] + offset + torch.tensor([0.003, -0.004, 0.0])

    with pytest.raises(InputError, match=r"system b-1, atom 2 and atom 4 are at one place .*0\.01 Å"):
        model_with()(broken(change))


@pytest.mark.parametrize(("axes", "pbc"), [("c", (1, 1, 1)), ("a and b", (1, 1, 0)), ("b", (0, 1, 0))])
def test_calculator_refuses_a_periodic_direction_without_a_cell_vector(tmp_path, axes, pbc):
    """fairchem puts a vector of 1 Å there, and would compute a crystal of that period."""
    torch.set_default_dtype(torch.float32)
    model = {"name": "scn", **SETTINGS}
    outputs = {"energy": {"level": "system"}, "forces": {"level": "atom"}}
    config = {"model": model, "outputs": outputs, "dataset": {"src": ""}, "optim": {}, "task": {}}
    config |= {"loss_functions": [{"energy": {"fn": "mae"}}], "evaluation_metrics": {}}
    weights = model_with().state_dict()
    torch.save({"config": config, "state_dict": weights, "normalizers": {}}, tmp_path / "model.pt")
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]], cell=[7.0, 8.0, 9.0], pbc=pbc)
    atoms.calc = OCPCalculator(checkpoint_path=tmp_path / "model.pt", seed=0)
    whole = atoms.get_potential_energy()
    for axis in axes.split(" and "):
        atoms.cell["abc".index(axis)] = 0
    with pytest.raises(InputError, match=f"system 0: periodic along {axes} without a cell vector"):
        atoms.get_potential_energy()
    for axis in axes.split(" and "):
        atoms.pbc["abc".index(axis)] = False
    assert atoms.get_potential_energy() == pytest.approx(whole, abs=1e-6)  # images are beyond the cutoff


def test_images_do_not_coincide_without_periodicity():
    """Without periodic boundary conditions an atom at the image of another is not at its place."""

    def change(structure, atom):
        structure.pos[4] = structure.pos[atom] + structure.cell[0, 0]

    model = model_with(use_pbc=False)
    out = model(broken(change))
    assert torch.isfinite(out["forces"]).all()


@pytest.mark.parametrize("number", [90, 118])
def test_element_without_an_embedding(number):
    """An atomic number from max_num_elements on is refused, with system, atom and setting."""

    def change(structure, atom):
        structure.atomic_numbers[atom] = number

    with pytest.raises(
        InputError,
        match=f"atomic number {number} in system b-1, atom 2; expected 0..89 ",
    ):
        model_with()(broken(change))


def test_largest_element_is_allowed():
    """The atomic number max_num_elements - 1 has an embedding."""

    def change(structure, atom):
        structure.atomic_numbers[atom] = 89

    assert torch.isfinite(model_with()(broken(change))["energy"]).all()


def test_negative_atomic_number():
    """An atomic number below 0 is refused like one that is too large."""

    def change(structure, atom):
        structure.atomic_numbers[atom] = -1

    with pytest.raises(InputError, match="atomic number -1 in system b-1, atom 2"):
        model_with()(broken(change))


def test_system_without_a_name():
    """Without sid the error counts systems from 0."""
    data = batch_of(bulk(4, 0), bulk(4, 1))
    data.pos[5, 0] = float("nan")
    with pytest.raises(InputError, match="system 1, atom 1"):
        model_with()(data)


def test_graph_that_is_not_there():
    """otf_graph False and data without edges is an error that says what to set."""
    with pytest.raises(InputError, match="no edge_index and no cell_offsets; set otf_graph: True"):
        model_with(otf_graph=False)(data_of(bulk(4, 0)))


def test_mixed_boundary_conditions_in_one_graph():
    """One graph for a batch takes one answer to "periodic?"; the error says what to set."""
    data = data_of(bulk(4, 0), molecule(4, 1))
    with pytest.raises(InputError, match="use_pbc_single: True"):
        model_with(use_pbc_single=False)(data)
    assert torch.isfinite(model_with(use_pbc_single=True)(data)["energy"]).all()


def test_settings_are_checked():
    """The model's keywords are settings: unknown ones and wrong values are errors."""
    with pytest.raises(InputError, match="did you mean 'lmax'"):
        SphericalChannelNetwork(lamx=4)
    with pytest.raises(InputError, match="model setting lmax=11"):
        SphericalChannelNetwork(lmax=11)


def test_without_periodicity():
    """use_pbc False finds the edges that a molecule of the same atoms has."""
    crystal = bulk(6, 0)
    free = crystal.clone()
    free.pbc = torch.tensor([False, False, False])
    model = model_with(use_pbc=False)
    assert_close(model(data_of(crystal)), model_with()(data_of(free)), 0)
    assert len(find_edges(data_of(crystal), model.config)[0]) < len(
        find_edges(data_of(crystal), model_with().config)[0]
    )


def test_data_without_pbc():
    """Data without pbc, as in OC20's files, are periodic."""
    structure = bulk(6, 0)
    bare = structure.clone()
    del bare.pbc
    assert_close(
        model_with()(Batch.from_data_list([bare])), model_with()(Batch.from_data_list([structure])), 0
    )


def test_positions_have_gradients_of_edge_vectors():
    """Edge vectors follow the positions: d vec / d pos is +1 at the source and -1 at the target."""
    data = data_of(bulk(5, 0))
    data.pos.requires_grad_()
    source, target, vec = find_edges(data, model_with().config)
    weight = torch.randn_like(vec)
    (weight * vec).sum().backward()
    expected = torch.zeros(5, 3).index_add_(0, source, weight).index_add_(0, target, -weight)
    torch.testing.assert_close(data.pos.grad, expected)


# --- initial weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["gaussian", "silu"])
def test_initial_weights_follow_the_distributions_of_the_built_in_model(function):
    """Each parameter's values, over 8 seeds and both layers, pass as a sample of the built-in model's."""

    def values_of(build, translate):
        values = defaultdict(list)
        for seed in range(8):
            torch.manual_seed(seed if build is BuiltIn else 100 + seed)
            model = build(**SETTINGS | {"distance_function": function})
            for name, parameter in model.named_parameters():
                values[re.sub(r"edge_blocks\.\d", "edge_blocks.k", translate(name))].append(
                    parameter.detach().flatten()
                )
        return {name: torch.cat(parts) for name, parts in values.items()}

    ours = values_of(SphericalChannelNetwork, to_checkpoint_name)
    theirs = values_of(BuiltIn, lambda name: name)
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        expected = theirs[name]
        assert len(values) == len(expected)
        assert ks_2samp(values.numpy(), expected.numpy()).pvalue > 1e-3, name
        # Five standard errors of the ratio of two sample deviations; less spread than of normal numbers.
        assert (values.std() / expected.std()).item() == pytest.approx(1, abs=5 / math.sqrt(len(values))), (
            name
        )
