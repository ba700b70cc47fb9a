"""What rotations, rolls, cells and batches may do to the outputs, and how little each option leaves of it."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import kstest

from ocp_scn import SphericalChannelNetwork, ops
from ocp_scn.fairchem import batches
from ocp_scn.nn import message
from ocp_scn.nn import taps as taps_of_messages
from ocp_scn.ops import reference
from ocp_scn.ops.library import SCHEMAS
from ocp_scn.sphere import edge_frames, random_rolls, wigner_rows
from tests.structures import batch_of, bulk, molecule, slab
from tests.weights import strengthen

LMAX = 3
SETTINGS = {
    "lmax": LMAX,
    "num_interactions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 5,
    "hidden_channels": 12,
    "num_basis_functions": 7,
    "num_sphere_samples": 32,
    "distance_resolution": 0.5,
    "cutoff": 5.0,
    "otf_graph": True,
    # A cap, and the border between resolutions, would choose by rounding among an atom's images at
    # equal distances; then the graph changes, not the network.
    "max_num_neighbors": -1,
    "num_resolutions": 1,
}
EXACT = {"mmax": 0, "use_grid": False}  # the coefficients turn exactly
GRADIENT = {"direct_forces": False, "regress_stress": True}
RANDOM = {"evaluation_roll": "random"}
FINER = {"grid_resolution": 4 * (LMAX + 1)}


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def model_with(**changes):
    """Return a model in evaluation mode whose neighbours and non-linearities matter."""
    torch.manual_seed(1)
    return strengthen(SphericalChannelNetwork(**SETTINGS | changes).eval())


def gauss(n):
    """Return the settings of readouts at n latitudes x 2 n longitudes."""
    return {"sphere_quadrature": "gauss", "num_sphere_samples": 2 * n * n}


def structures():
    """Return a crystal, a slab and a molecule."""
    return [bulk(6, 0), slab(5, 1), molecule(6, 2)]


def run(model, data, seed=None):
    """Return the outputs without a graph; ``seed`` is that of an explicit generator."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return model(data, generator=generator)


def turned(structure, rotation):
    """Return the structure turned, cell and all."""
    copy = structure.clone()
    copy.pos, copy.cell = structure.pos @ rotation.T, structure.cell @ rotation.T
    return copy


def coefficients(model, data):
    """Return the atoms' signals (A, K, C) after all layers: the sum of the layers' updates."""
    updates = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, update: updates.append(update))
        for block in model.edge_blocks
    ]
    run(model, data)
    for hook in hooks:
        hook.remove()
    return sum(updates)


def coefficient_deviations(model, parts, rotation, dtype=torch.float64):
    """Return for each degree how far turned structures' coefficients are from the turned coefficients.

    In units of the degree's largest coefficient.
    """
    degrees = [2 * degree + 1 for degree in range(model.config.lmax + 1)]
    before = coefficients(model, batch_of(*parts, dtype=dtype)).split(degrees, dim=1)
    after = coefficients(model, batch_of(*[turned(part, rotation) for part in parts], dtype=dtype))
    rows = wigner_rows(rotation[None], model.config.lmax, model.config.lmax)
    expected = [d[0].to(dtype) @ x for d, x in zip(rows, before, strict=True)]
    return [
        ((found - x).abs().max() / x.abs().max()).item()
        for found, x in zip(after.split(degrees, dim=1), expected, strict=True)
    ]


def output_deviations(model, rotation, dtype=torch.float64):
    """Return how far a rotation moves energies and forces, in units of the largest ones."""
    parts = structures()
    before = run(model, batch_of(*parts, dtype=dtype))
    after = run(model, batch_of(*[turned(part, rotation) for part in parts], dtype=dtype))
    turn = rotation.to(dtype)
    pairs = {"energy": (after["energy"], before["energy"])}
    pairs["forces"] = (after["forces"], before["forces"] @ turn.T)
    if "stress" in before:
        pairs["stress"] = (after["stress"][:2], turn @ before["stress"][:2] @ turn.T)  # the molecule has none
    return {key: ((x - y).abs().max() / y.abs().max()).item() for key, (x, y) in pairs.items()}


def roll_spread(model, draws=4):
    """Return the standard deviation of forces over random rolls, in units of the mean force component."""
    data = batch_of(*structures())
    forces = torch.stack([run(model, data, seed)["forces"] for seed in range(draws)])
    return (forces.std(dim=0).mean() / forces.abs().mean()).item()


def assert_close(found, expected, tolerance):
    """Check all outputs, in units of the largest value of each."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert value.isnan().equal(found[name].isnan())  # the stress of what has no volume
        scale = value.nan_to_num().abs().max()
        assert (found[name] - value).nan_to_num().abs().max() <= tolerance * scale, name


# --- rotations ------------------------------------------------------------------------------------

ANY = torch.linalg.matrix_exp(
    torch.tensor([[0.0, -0.7, 1.9], [0.7, 0.0, 1.1], [-1.9, -1.1, 0.0]], dtype=torch.float64)
)
ROTATIONS = {
    "any": ANY,
    "permuted axes": torch.eye(3, dtype=torch.float64)[[1, 2, 0]],
    "half turn": torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)),
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_interactions": 4},
        {"num_taps": 4},
        {"smooth": True},
        {"direct_forces": False},
        {"num_resolutions": 2, "lmax": 5, "max_num_neighbors": 15, "cutoff": 9.0},
    ],
    ids=lambda changes: " ".join(changes) or "default",
)
@pytest.mark.parametrize("rotation", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_coefficients_turn_exactly(changes, rotation):
    """With m = 0 and a plain sum the coefficients of every degree turn with D(Q) to 1e-10."""
    # Two resolutions and a cap only where no two distances are equal.
    parts = [molecule(18, 0)] if "num_resolutions" in changes else structures()
    deviations = coefficient_deviations(model_with(**EXACT | changes), parts, rotation)
    assert len(deviations) == changes.get("lmax", LMAX) + 1
    assert max(deviations) < 1e-10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("changes", [{}, GRADIENT], ids=["direct", "gradient"])
def test_outputs_turn_exactly(changes, dtype, bound):
    """Read out with 1152 Gauss points, exact coefficients give exact energies, forces and stresses."""
    model = model_with(**EXACT, **gauss(24), **changes).to(dtype)
    deviations = output_deviations(model, ANY, dtype)
    assert len(deviations) == (3 if changes else 2)
    assert max(deviations.values()) < bound


def test_coefficients_in_float32():
    """In float32 exact coefficients turn to a few units in the last place."""
    model = model_with(**EXACT).float()
    assert max(coefficient_deviations(model, structures(), ANY, torch.float32)) < 5e-6


def test_more_gauss_points():
    """The readouts' error falls fast with Gauss points; the spiral keeps a large one."""
    for name, fewest in (("energy", 1e-2), ("forces", 1e-1)):
        found = [output_deviations(model_with(**EXACT, **gauss(n)), ANY)[name] for n in (4, 8, 12)]
        assert found[0] < fewest
        assert found[1] < 0.1 * found[0]
        assert found[2] < 0.1 * found[1]
        spiral = output_deviations(model_with(**EXACT, num_sphere_samples=288), ANY)[name]
        assert spiral > 100 * found[2]


@pytest.mark.parametrize("num_bands", [1, 2, 3, LMAX + 1])
def test_finer_grid(num_bands):
    """The grid network's error falls with the latitudes of the grid, with any number of bands."""
    found = [
        max(
            coefficient_deviations(
                model_with(mmax=0, num_bands=num_bands, grid_resolution=latitudes), structures(), ANY
            )
        )
        for latitudes in (8, 16, 32)
    ]
    assert found[0] > 1e-4
    assert found[1] < 0.05 * found[0]
    assert found[2] < 0.01 * found[1]


@pytest.mark.parametrize("mmax", [1, 2])
def test_all_options_together(mmax):
    """Taps, grid and Gauss points take a model with m != 0 from percents to less than 5e-4."""
    default = output_deviations(model_with(mmax=mmax, num_taps=1), ANY)
    better = output_deviations(model_with(mmax=mmax, num_taps=1, eval_num_taps=16, **FINER, **gauss(12)), ANY)
    assert min(default.values()) > 1e-2
    assert max(better.values()) < 5e-4


@pytest.mark.parametrize("num_bands", range(1, LMAX + 2))
def test_all_bands(num_bands):
    """Up to lmax + 1 bands, the last of degree 0, every input of the grid network has a gradient."""
    model = model_with(num_bands=num_bands).train()
    out = model(batch_of(*structures()))
    (out["energy"].sum() + out["forces"].square().sum()).backward()
    for block in model.edge_blocks:
        gradient = block.aggregation.fc1.weight.grad
        assert gradient.isfinite().all()
        assert (gradient.abs().amax(dim=0) > 0).all()


# --- rolls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mmax", "taps"), [(1, (1, 2, 3, 4)), (2, (1, 4, 8, 12)), (3, (1, 4, 8, 12))])
def test_more_taps_in_evaluation(mmax, taps):
    """The spread of forces over random rolls falls at least tenfold from each number of taps to the next."""
    found = [roll_spread(model_with(mmax=mmax, num_taps=1, eval_num_taps=t, **RANDOM)) for t in taps]
    assert found[0] > 0.1
    for fewer, more in itertools.pairwise(found):
        assert more < 0.1 * fewer


@pytest.mark.parametrize("mmax", [1, 2, 3])
def test_taps_of_a_linear_message(mmax, monkeypatch):
    """Without activations a message has waves up to 2 mmax of the roll: 2 mmax + 1 taps leave nothing."""

    def gate(first, mixing, bias, gate, gate_bias):
        return (reference.mix(first, mixing) + bias) * (gate + gate_bias)[:, None]

    def tap_mean(values, bias, cos, sin, opposite):
        return reference.roll_back((values + bias).unflatten(2, (cos.shape[1], -1)), cos, sin, opposite)

    linear = SimpleNamespace(**{name: getattr(ops, name) for name in SCHEMAS})
    linear.bias_silu, linear.gate, linear.tap_mean = torch.add, gate, tap_mean
    for module in (message, taps_of_messages):
        monkeypatch.setattr(module, "ops", linear)
        monkeypatch.setattr(module, "silu_of_own", torch.add)
    assert roll_spread(model_with(mmax=mmax, num_taps=2 * mmax, **RANDOM)) > 1e-2
    for taps in (2 * mmax + 1, 2 * mmax + 2):
        assert roll_spread(model_with(mmax=mmax, num_taps=taps, **RANDOM)) < 1e-12


@pytest.mark.parametrize("num_taps", [2, 5])
@pytest.mark.parametrize("mmax", range(LMAX + 1))
def test_rolls_by_whole_taps(mmax, num_taps, monkeypatch):
    """T taps make a model invariant to other multiples of 2 pi / T on every edge, whatever mmax."""
    model, data = model_with(mmax=mmax, num_taps=num_taps), batch_of(*structures())
    before = run(model, data)

    def with_rolls(unit):
        def frames(vec, roll):
            steps = torch.arange(len(vec)) % 7
            return edge_frames(vec, roll + unit * steps)

        monkeypatch.setattr(batches, "edge_frames", frames)
        return run(model, data)

    assert_close(with_rolls(2 * math.pi / num_taps), before, 1e-11)
    other = with_rolls(1.3)
    if mmax == 0:
        assert_close(other, before, 1e-11)
    else:
        assert not torch.equal(other["energy"], before["energy"])


def test_rolls_come_from_the_generator():
    """With an explicit generator its seed alone decides, and torch's own generator is left as it was."""
    model, data = model_with(num_taps=1, **RANDOM), batch_of(*structures())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(model, data, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = run(model, data, 5), run(model, data, 6)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])


def test_fixed_rolls_need_no_generator():
    """With fixed rolls a generator is not drawn from and changes nothing."""
    model, data = model_with(num_taps=1), batch_of(*structures())
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    with torch.no_grad():
        found = model(data, generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert_close(found, run(model, data), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_rolls_are_uniform(dtype):
    """Rolls pass a Kolmogorov-Smirnov test for the uniform distribution on [0, 2 pi)."""
    generator = torch.Generator().manual_seed(0)
    rolls = random_rolls(20000, dtype=dtype, device=torch.device("cpu"), generator=generator)
    assert rolls.dtype == dtype
    assert ((rolls >= 0) & (rolls < 2 * math.pi)).all()
    assert kstest(rolls.numpy(), "uniform", args=(0, 2 * math.pi)).pvalue > 1e-3


# --- cells ----------------------------------------------------------------------------------------


def other_basis(matrix):
    """Return a change of structures to another basis of the same lattice."""

    def change(structure):
        copy = structure.clone()
        copy.cell = torch.tensor(matrix) @ structure.cell
        return copy

    return change


def moved_by_lattice_vectors(structure):
    """Return the structure with each atom in another image of the cell."""
    copy = structure.clone()
    copy.pos = structure.pos + torch.randint(-2, 3, (len(structure.pos), 3)).double() @ structure.cell[0]
    return copy


CELLS = {
    "a1, a2 + a1, a3 - 2 a2": other_basis([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, -2.0, 1.0]]),
    "a1 + a2, a2 + a3, a1 + a2 + a3": other_basis([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]),
    "a2, a3, a1": other_basis([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    "a2, a1, a3, left-handed": other_basis([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "-a1, a2, -a3": other_basis([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]]),
    "moved by lattice vectors": moved_by_lattice_vectors,
}


@pytest.mark.parametrize("changes", [{"mmax": 2, "num_taps": 1}, GRADIENT], ids=["direct", "gradient"])
@pytest.mark.parametrize("change", CELLS.values(), ids=CELLS.keys())
def test_choice_of_the_cell(change, changes):
    """Another basis of the lattice, or other images of atoms, change no output."""
    model, parts = model_with(**changes), [bulk(6, 0), slab(5, 1)]
    before = run(model, batch_of(*parts))
    assert_close(run(model, batch_of(*map(change, parts))), before, 1e-11)


@pytest.mark.parametrize("changes", [{"mmax": 2, "num_taps": 1}, GRADIENT], ids=["direct", "gradient"])
@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2)])
def test_supercell(repeats, changes):
    """n cells have n times the energy, the forces of one cell n times over, and its stress."""
    model, structure = model_with(**changes), bulk(4, 0)
    number, count = len(structure.pos), math.prod(repeats)
    images = torch.cartesian_prod(*[torch.arange(r, dtype=torch.float64) for r in repeats])
    large = structure.clone()
    large.pos = (structure.pos + (images @ structure.cell[0])[:, None]).flatten(0, 1)
    large.cell = structure.cell * torch.tensor(repeats)[:, None]
    large.atomic_numbers = structure.atomic_numbers.repeat(count)
    large.natoms = torch.tensor([number * count])
    one, many = run(model, batch_of(structure)), run(model, batch_of(large))
    expected = {**one, "energy": count * one["energy"], "forces": one["forces"].repeat(count, 1)}
    assert_close(many, expected, 1e-11)


def test_moved_and_renumbered_gradients():
    """A translation leaves gradient forces and stress alone; new numbers of atoms renumber the forces."""
    model, structure = model_with(mmax=2, num_taps=1, **GRADIENT), bulk(7, 0)
    order = torch.randperm(7)
    other = structure.clone()
    other.pos = structure.pos[order] + torch.tensor([0.3, -41.7, 2.2])
    other.atomic_numbers = structure.atomic_numbers[order]
    before, after = run(model, batch_of(structure)), run(model, batch_of(other))
    assert_close(after, {**before, "forces": before["forces"][order]}, 1e-11)


# --- calls and batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("changes", [{}, GRADIENT], ids=["direct", "gradient"])
def test_repeated_calls(changes, dtype):
    """Evaluation gives the same bits at each call, gradients, taps of evaluation and bands included."""
    model = model_with(mmax=2, num_taps=1, eval_num_taps=5, num_bands=2, **changes).to(dtype)
    data = batch_of(*structures(), dtype=dtype)
    first = run(model, data)
    run(model, batch_of(bulk(3, 7), dtype=dtype))  # another batch in between
    for _ in range(3):
        assert_close(run(model, data), first, 0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("changes", [{}, GRADIENT], ids=["direct", "gradient"])
def test_batches(changes, dtype, bound):
    """Size, order and place in the batch change outputs by less than ``bound`` of the largest one."""
    model = model_with(**changes).to(dtype)
    parts = [*structures(), slab(3, 4), molecule(1, 5), bulk(2, 6)]
    alone = [run(model, batch_of(part, dtype=dtype)) for part in parts]
    for order in (range(6), (5, 3, 1, 0, 2, 4), (1, 0), (4, 2, 2, 4, 0)):
        out = run(model, batch_of(*[parts[i] for i in order], dtype=dtype))
        expected = {name: torch.cat([alone[i][name] for i in order]) for name in out}
        assert_close(out, expected, bound)
