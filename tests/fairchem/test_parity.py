"""Equal weights, graph and frames give the energies, forces and gradients of fairchem's built-in SCN."""

import copy
import dataclasses
import itertools

import pytest
import torch
from fairchem.core.common.utils import radius_graph_pbc
from fairchem.core.models.base import GraphData
from fairchem.core.models.scn import scn
from fairchem.core.models.scn.sampling import CalcSpherePoints
from fairchem.core.models.scn.scn import SphericalChannelNetwork as BuiltIn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ocp_scn import SCN, SphericalChannelNetwork
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.graph import build_graph, sort_by_target
from ocp_scn.nn import products
from ocp_scn.sphere import edge_frames
from ocp_scn.state_dict import to_checkpoint_name
from tests.structures import batch_of, bulk, crystal, molecule, slab
from tests.weights import strengthen

SMALL = {
    "lmax": 3,
    "num_resolutions": 1,  # the built-in model breaks for two resolutions and lmax < 4
    "num_interactions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 6,
    "hidden_channels": 12,
    "num_basis_functions": 7,
    "num_sphere_samples": 64,
    "distance_resolution": 0.2,
    "cutoff": 6.0,
    "otf_graph": True,
}
CASES = {
    "l1": {"lmax": 1},
    "l1 m0": {"lmax": 1, "mmax": 0},
    "l1 two bands one tap": {"lmax": 1, "num_bands": 2, "num_taps": 1},
    "l2 gradually": {"lmax": 2, "num_bands": 2, "num_interactions": 1},
    "l3 sum only": {"use_grid": False, "sphere_channels_reduce": 4},
    "l4 two resolutions": {"lmax": 4, "num_resolutions": 2},
    "l4 m0 two resolutions": {"lmax": 4, "mmax": 0, "num_resolutions": 2, "num_taps": 1},
    "l4 silu": {"lmax": 4, "num_resolutions": 2, "distance_function": "silu", "sphere_channels_reduce": 8},
    "l4 sigmoid": {"lmax": 4, "distance_function": "sigmoid", "basis_width_scalar": 2.0},
    "l5 linearsigmoid": {
        "lmax": 5,
        "num_resolutions": 2,
        "distance_function": "linearsigmoid",
        "num_taps": 1,
    },
    "l6 published": {"lmax": 6, "num_resolutions": 2, "num_bands": 2, "basis_width_scalar": 2.0},
    "l6 energy only": {"lmax": 6, "num_resolutions": 2, "regress_forces": False, "num_taps": 1},
    "l7 sum only": {"lmax": 7, "num_resolutions": 2, "use_grid": False, "distance_function": "silu"},
    "l10": {"lmax": 10, "num_resolutions": 2, "num_interactions": 1, "sphere_channels_reduce": 3},
}
cases = pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
# Two systems a batch: fairchem's graph takes one answer to "periodic?" for the whole batch.
STRUCTURES = {
    "periodic": lambda dtype: batch_of(bulk(9, 0), bulk(5, 1), dtype=dtype),
    "slab": lambda dtype: batch_of(slab(7, 2), bulk(6, 3), dtype=dtype),
    "molecule": lambda dtype: batch_of(molecule(16, 4), molecule(5, 5), dtype=dtype),
}
structures = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())


def models(changes, dtype, seed=0):
    """Return our model and the built-in one with the same weights.

    At the initial weights almost all of a signal is in degree 0, so forces, means of value times
    direction over the sphere, cancel to 1e-4 of their summands and are rounding noise in float32.
    Weights of layers are therefore scaled by 3, which keeps variances through maps and SiLUs
    (the initial ones shrink by sqrt 3, a SiLU by about 1.7): forces are then of the order of
    their summands.
    """
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    reference = BuiltIn(**SMALL | changes)
    with torch.no_grad():
        for parameter in (p for name, p in reference.named_parameters() if "fc" in name and p.ndim == 2):
            parameter.mul_(3)
    model = SphericalChannelNetwork(**SMALL | changes)
    model.load_state_dict(reference.state_dict(), strict=True)
    return model, reference


def with_graph(reference, edges):
    """Make the built-in model use ``edges``; return the list to which it will add its frames.

    It keeps their order within a resolution; sorted as in our graph, its frames fit to ours.
    """
    source, target, vec = edges
    order, _ = sort_by_target(vec.norm(dim=-1), target)
    source, target, vec = source[order], target[order], vec[order]
    graph = GraphData(torch.stack([source, target]), vec.norm(dim=-1), vec, *[None] * 5)
    reference.generate_graph = lambda _: graph
    random_frames, frames = reference._init_edge_rot_mat, []

    def recorded(*args):
        frames.append(random_frames(*args))
        return frames[-1]

    reference._init_edge_rot_mat = recorded
    return frames


def both(changes, data, dtype, seed=0):
    """Return predictions of both models with the built-in one's random frames, the models, and the frames."""
    model, reference = models(changes, dtype, seed)
    frames = with_graph(reference, find_edges(data, model.config))
    theirs = reference(data)
    return ours_with(model, data, frames[0]), theirs, model, reference, frames[0]


def ours_with(model, data, frames):
    """Return our model's predictions with given frames."""
    graph = build_graph(
        *find_edges(data, model.config),
        num_resolutions=model.config.num_resolutions,
        max_num_neighbors=model.config.max_num_neighbors,
    )
    energy, forces = SCN.forward(model, data.atomic_numbers, graph, frames, data.batch, len(data.natoms))
    return {"energy": energy} if forces is None else {"energy": energy, "forces": forces}


def assert_within(bound, ours, theirs):
    """Assert that each prediction's largest error is within ``bound`` of its largest absolute value."""
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].shape == theirs[name].shape
        assert error(ours[name], theirs[name]) <= bound, name


def error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def loss(predictions):
    """Return a number in which each prediction has a weight of its own."""
    return sum((value.flatten() * torch.arange(1, value.numel() + 1)).sum() for value in predictions.values())


@structures
@cases
def test_float64(changes, structure):
    """Energies and forces within 1e-9, gradients of every parameter within 1e-8."""
    ours, theirs, model, reference, _ = both(changes, structure(torch.float64), torch.float64)
    assert_within(1e-9, ours, theirs)
    loss(ours).backward()
    loss(theirs).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = expected[to_checkpoint_name(name)].grad
        assert gradient.any(), name
        assert error(parameter.grad, gradient) <= 1e-8, name


@pytest.fixture
def exact_sphere_points(monkeypatch):
    """Let the built-in model round its sphere points only once, after computing them in float64.

    It computes azimuths of hundreds of radians in float32, so its points are off by 1e-5, and with
    them its forces by up to 6e-5, far beyond the rounding of everything else.
    """

    def computed_in_float64(num_points, device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        points = CalcSpherePoints(num_points, device)
        torch.set_default_dtype(before)
        return points.to(before)

    monkeypatch.setattr(scn, "CalcSpherePoints", computed_in_float64)


# Each case with one of the structures, in turn.
CASES_IN_TURN = [
    pytest.param(changes, STRUCTURES[structure], id=f"{name}-{structure}")
    for (name, changes), structure in zip(CASES.items(), itertools.cycle(STRUCTURES), strict=False)
]
cases_in_turn = pytest.mark.parametrize(("changes", "structure"), CASES_IN_TURN)


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request, monkeypatch):
    """What float32 products are computed by; otherwise the processor decides, and their sizes."""
    if request.param == "oneDNN" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr(products, "MIN_VALUES", 0)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: request.param == "oneDNN")


@cases_in_turn
@pytest.mark.usefixtures("exact_sphere_points", "library")
def test_float32(changes, structure):
    """Energies and forces within 2e-5, with forces a hundred times above their initial cancellation."""
    summands = []
    ours, theirs, model, _, frames = both(changes, structure(torch.float32), torch.float32)
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert_within(2e-5, ours, theirs)
    if model.force_head is not None:
        model.force_head.register_forward_hook(lambda _module, _inputs, values: summands.append(values))
        ours_with(model, structure(torch.float32), frames)
        assert ours["forces"].abs().max() > 0.01 * summands[0].abs().mean()


@cases_in_turn
def test_float32_against_float64(changes, structure):
    """Energies and forces in float32 within 2e-5 of the built-in model's in float64, as it is."""
    data = structure(torch.float32)
    model, _ = models(changes, torch.float32)
    _, reference = models(changes, torch.float64)
    reference.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    source, target, vec = find_edges(data, model.config)
    frames = with_graph(reference, (source, target, vec.double()))
    theirs = reference(structure(torch.float64))
    torch.set_default_dtype(torch.float32)
    ours = ours_with(model, data, frames[0].float())
    assert_within(2e-5, ours, theirs)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("direct_forces", [True, False])
def test_gradients_in_float32(direct_forces):
    """Gradients of every parameter, of second derivatives too, within 1e-4 of the largest in float64."""
    settings = {**SMALL, **CASES["l6 published"], "direct_forces": direct_forces}
    model = strengthen(SphericalChannelNetwork(**settings)).eval()  # the same frames in both precisions
    exact = copy.deepcopy(model).double()
    for network, dtype in ((model, torch.float32), (exact, torch.float64)):
        loss(network(batch_of(bulk(7, 1), slab(5, 2), dtype=dtype))).backward()
    for found, wanted in zip(model.parameters(), exact.parameters(), strict=True):
        assert error(found.grad, wanted.grad) <= 1e-4


def test_no_far_edge():
    """A small molecule has near edges only; the other resolution's weights then have no effect."""
    data = batch_of(molecule(5, 0))
    ours, theirs, *_ = both(CASES["l6 published"], data, torch.float64)
    assert_within(1e-9, ours, theirs)


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=3),
    lmax=st.integers(1, 7),
    changes=st.fixed_dictionaries(
        {
            "mmax": st.sampled_from([0, 1]),
            "num_taps": st.sampled_from([1, -1]),
            "num_bands": st.sampled_from([1, 2]),
            "max_num_neighbors": st.sampled_from([3, 12, 20, 40]),
            "num_resolutions": st.sampled_from([1, 2]),
            "distance_function": st.sampled_from(["gaussian", "sigmoid", "linearsigmoid", "silu"]),
            "sphere_channels_reduce": st.sampled_from([4, 6]),
            "use_grid": st.booleans(),
        }
    ),
)
def test_any_settings(seed, sizes, lmax, changes):
    """Random settings, weights and periodic systems: within 1e-9 in float64."""
    if lmax < 4:
        changes = changes | {"num_resolutions": 1}
    data = batch_of(*[bulk(size, seed + i) for i, size in enumerate(sizes)])
    ours, theirs, *_ = both(changes | {"lmax": lmax}, data, torch.float64, seed)
    assert_within(1e-9, ours, theirs)


@structures
@pytest.mark.parametrize(
    "changes", [CASES["l6 published"], CASES["l5 linearsigmoid"]], ids=["taps", "one tap"]
)
def test_whole_adapter(changes, structure):
    """model(batch) in float64, with its own graph and frames of roll 0, within 1e-9."""
    data = structure(torch.float64)
    model, reference = models(changes, torch.float64)
    with_graph(reference, find_edges(data, model.config))
    reference._init_edge_rot_mat = lambda _data, _index, vec: edge_frames(vec, torch.zeros(len(vec)))
    ours, theirs = model.eval()(data), reference(data)
    assert_within(1e-9, ours, theirs)


def test_converted_to_float64():
    """A model built in float32 and turned into float64 is as exact as one built in float64."""
    data = STRUCTURES["periodic"](torch.float64)
    exact, reference = models(CASES["l6 published"], torch.float64)
    torch.set_default_dtype(torch.float32)
    converted = SphericalChannelNetwork(**SMALL | CASES["l6 published"]).double().eval()
    converted.load_state_dict(reference.state_dict(), strict=True)
    assert_within(1e-9, converted(data), exact.eval()(data))


@cases
def test_state_dicts_load_in_both_directions(changes):
    """Weights of either model load strictly into the other and come back with the same bits."""
    model, reference = SphericalChannelNetwork(**SMALL | changes), BuiltIn(**SMALL | changes)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    reference.load_state_dict(state, strict=True)
    other = SphericalChannelNetwork(**SMALL | changes)
    other.load_state_dict(reference.state_dict(), strict=True)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


GRAPHS = {
    "periodic": lambda: batch_of(bulk(9, 0), bulk(5, 1), bulk(1, 2), dtype=torch.float32),
    "slab": lambda: batch_of(slab(7, 2), slab(4, 3), dtype=torch.float32),
    "molecule": lambda: batch_of(molecule(16, 4), molecule(5, 5), dtype=torch.float32),
    "small cell": lambda: batch_of(bulk(2, 6, edge=2.5), dtype=torch.float32),
}
graphs = pytest.mark.parametrize("structure", GRAPHS.values(), ids=GRAPHS.keys())


def sorted_edges(source, target, vec):
    """Return edges as rows (source, target, x, y, z), in an order of their own."""
    rows = torch.cat([torch.stack([source, target], dim=1).double(), vec.double()], dim=1)
    # Vectors are compared to 1e-5 Å, so they are sorted by coarser keys.
    keys = [(int(s), int(t), *(round(x, 3) for x in v)) for s, t, *v in rows.tolist()]
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def compare_graphs(data, settings):
    """Assert that find_edges and the built-in model's generate_graph find the same edges."""
    config = dataclasses.replace(SphericalChannelNetwork(**SMALL).config, **settings)
    ours = sorted_edges(*find_edges(data.clone(), config))
    reference = BuiltIn(**SMALL | settings)
    graph = reference.generate_graph(data.clone())
    theirs = sorted_edges(*graph.edge_index, graph.edge_distance_vec)
    assert len(ours) > 0
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@graphs
@pytest.mark.parametrize("max_num_neighbors", [7, 1000])
@pytest.mark.parametrize("use_pbc_single", [True, False])
def test_edges_are_those_of_fairchem(structure, use_pbc_single, max_num_neighbors):
    """The same edges with the same vectors, one system at a time or all at once, with and without a cap."""
    compare_graphs(
        structure(),
        {"use_pbc_single": use_pbc_single, "max_num_neighbors": max_num_neighbors, "otf_graph": True},
    )


def test_mixed_boundary_conditions():
    """Periodic systems and molecules share a batch if the graph is built one system at a time."""
    data = batch_of(bulk(6, 0), molecule(8, 1), slab(5, 2), dtype=torch.float32)
    compare_graphs(data, {"use_pbc_single": True, "otf_graph": True})


@graphs
@pytest.mark.parametrize("use_pbc", [True, False])
def test_stored_edges_are_those_of_fairchem(structure, use_pbc):
    """With otf_graph False, edges and offsets come from the data; without use_pbc, offsets are left out."""
    parts = structure().to_data_list()
    for part in parts:
        part.edge_index, part.cell_offsets, part.neighbors = radius_graph_pbc(part, 5.0, 15, True)
        part.pbc = part.pbc.view(-1)
    data = batch_of(*parts, dtype=torch.float32)
    compare_graphs(data, {"otf_graph": False, "use_pbc": use_pbc})


def test_edges_in_order():
    """Edges are found in fairchem's order, so that ties between equal lengths are cut the same way."""
    data = batch_of(crystal(), crystal(), dtype=torch.float32)
    model = SphericalChannelNetwork(**SMALL)
    source, target, vec = find_edges(data.clone(), model.config)
    graph = BuiltIn(**SMALL).generate_graph(data.clone())
    assert torch.equal(torch.stack([source, target]), graph.edge_index)
    torch.testing.assert_close(vec, graph.edge_distance_vec, rtol=0, atol=1e-6)
