"""Evaluations of repeated sizes: padded inputs, and recordings that are replayed with other values."""

import copy
import pickle

import pytest
import torch
from torch_geometric.data import Batch

from ocp_scn import SphericalChannelNetwork, replay
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.replay import NetworkInput, Replays, padded_size
from tests.fairchem.test_adapter import SETTINGS as SMALL
from tests.structures import batch_of, bulk, molecule, slab
from tests.weights import strengthen

SETTINGS = {**SMALL, "cuda_graphs": True}
KINDS = [
    pytest.param({}, id="direct"),
    pytest.param({"regress_forces": False}, id="energy"),
    pytest.param({"direct_forces": False, "regress_stress": True, "num_taps": 1}, id="gradient"),
    pytest.param({"num_resolutions": 1, "max_num_neighbors": -1}, id="one-resolution"),
]
ON_CARD = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA graphs"),
    ],
)


class Repetition:
    """Calls a function again on tensors of its own, as a CUDA graph launches its kernels again."""

    made = 0

    def __init__(self, function, tensors):
        Repetition.made += 1
        self.function, self.inputs = function, [x.clone() for x in tensors]
        self.results = function(self.inputs)

    def __call__(self, tensors):
        for own, x in zip(self.inputs, tensors, strict=True):
            own.copy_(x)
        for name, result in self.function(self.inputs).items():
            self.results[name].copy_(result)  # where a recording's results lie, every time
        return {name: result.clone() for name, result in self.results.items()}


@pytest.fixture(params=["cpu", ON_CARD])
def device(request, monkeypatch):
    """A device that replays: a CPU as if, with something that computes everything again."""
    monkeypatch.setattr(Repetition, "made", 0)
    if request.param == "cpu":
        monkeypatch.setitem(replay.RECORDERS, "cpu", Repetition)
    return request.param


def model_with(device, dtype=torch.float64, **changes):
    torch.manual_seed(1)
    return strengthen(SphericalChannelNetwork(**SETTINGS | changes).eval()).to(device, dtype)


def moved(data, seed, by=0.05):
    """Return a batch whose atoms are at other places nearby."""
    generator = torch.Generator().manual_seed(seed)
    new = data.clone()
    new.pos = new.pos + by * torch.randn(data.pos.shape, generator=generator, dtype=data.pos.dtype).to(
        data.pos
    )
    return new


def without(model):
    """Return the same model as if it was not asked to replay."""
    plain = SphericalChannelNetwork(**{**vars(model.config), "cuda_graphs": False}).eval()
    plain.to(model.sphere_embedding.weight).load_state_dict(model.state_dict())
    return plain


@torch.no_grad()
def assert_same(model, data, tolerance=1e-11):
    expected, found = without(model)(data), model(data)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("changes", KINDS)
def test_padded_inputs(changes):
    """An atom, a system and edges more change nothing for the others."""
    model = model_with("cpu", **{**changes, "cuda_graphs": False})
    data = batch_of(bulk(7, 0), molecule(1, 2), slab(5, 1))
    graph = batch_graph(data, model.config)
    x = NetworkInput(data.atomic_numbers.long(), data.batch, data.cell, graph, torch.zeros(len(graph.vec)))
    padded = x._replace(roll=graph.vec[:, 0] * 0).padded()
    assert padded.graph.sizes == tuple(map(padded_size, graph.sizes)) != graph.sizes
    assert len(padded.elements) == len(x.elements) + 1 and len(padded.cell) == len(x.cell) + 1
    found = model._predictions(padded, stress=bool(model.config.regress_stress), recorded=False)
    for name, expected in model(data).items():
        got = found[name][: len(expected)]
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11, equal_nan=True)


def test_padded_sizes():
    """They are a sixteenth more at most, beyond small numbers, and few."""
    sizes = range(20_000)
    assert padded_size(0) == 0
    assert all(size <= padded_size(size) <= max(size + 15, size * 17 / 16) for size in sizes)
    assert len({padded_size(size) for size in sizes}) < 200


@pytest.mark.parametrize("changes", KINDS)
def test_replays(changes, device):
    """From the second input of a size on, it is replayed, with new positions, weights and elements."""
    model = model_with(device, **changes)
    data = batch_of(bulk(7, 0), slab(6, 1)).to(device)
    for seed in range(4):
        assert_same(model, moved(data, seed, by=0.01))
    other = moved(data, 5, by=0.01)
    other.atomic_numbers = other.atomic_numbers.roll(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)  # as an optimizer, or a running mean of weights, changes them
    assert_same(model, other)
    if device == "cpu":
        assert Repetition.made == 1


def test_results_are_the_callers(device):
    """A replay does not change what an earlier one returned, and the same input gives the same bits."""
    model, data = model_with(device), batch_of(bulk(7, 0)).to(device)
    with torch.no_grad():
        results = [model(moved(data, seed)) for seed in (0, 0, 0, 1, 0)]
    for result in (*results[1:3], results[4]):
        assert all(torch.equal(result[name], value) for name, value in results[0].items())
    assert not torch.equal(results[3]["forces"], results[0]["forces"])


def test_inference_mode(device):
    """Tensors made in inference mode and others take turns."""
    model, data = model_with(device, direct_forces=False), batch_of(bulk(7, 0)).to(device)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            found = model.predict(moved(data, 1), stress=False, create_graph=False)
        expected = without(model).predict(moved(data, 1), stress=False, create_graph=False)
        torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-11, atol=1e-11)
    assert device != "cpu" or Repetition.made == 1


@pytest.mark.parametrize("move", [lambda m: m.float().double(), lambda m: m.load_state_dict(m.state_dict())])
def test_weights_elsewhere(move, device):
    """Weights that may lie in other memory are recorded anew."""
    model, data = model_with(device), batch_of(bulk(7, 0)).to(device)
    for _ in range(2):
        assert_same(model, data)
    move(model)
    assert not model.replays._found
    assert_same(model, data)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_begin_anew(copied, device):
    """A copy has weights of its own, and no recording of the first one's."""
    model, data = model_with(device), batch_of(bulk(7, 0)).to(device)
    for _ in range(2):
        assert_same(model, data)
    twin = copied(model)
    assert isinstance(twin.replays, Replays) and not twin.replays._found
    with torch.no_grad():
        twin.sphere_embedding.weight.mul_(2)
    for _ in range(3):
        assert_same(twin, data)
    assert_same(model, data)


def test_what_is_not_replayed(device):
    """Training, derivatives that somebody wants, and large inputs run as they are."""
    model, data = model_with(device), batch_of(bulk(7, 0)).to(device)
    for _ in range(3):
        model(data)["energy"].sum().backward()
    with torch.no_grad():
        model.train()(data)
    assert not model.replays._found
    many = Batch.from_data_list([bulk(7, seed) for seed in range(4)]).to(device)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ocp_scn.fairchem.batches.MOST_REPLAYED_EDGES", 100)
        model.eval()(many)
    assert not model.replays._found


def test_sizes_that_are_kept(device):
    """Only the sizes of late stay on record."""
    model = model_with(device)
    batches = [batch_of(*[bulk(5, 0)] * number).to(device) for number in (1, 2, 3, 4, 5, 6)]
    for data in [*batches, *batches[-2:], batches[0]]:
        assert_same(model, data)
    assert len(model.replays._found) == 4


def test_other_devices_compute_as_before():
    """Where nothing records, the setting changes nothing, bit by bit."""
    model, data = model_with("cpu"), batch_of(bulk(7, 0))
    with torch.no_grad():
        found, expected = model(data), without(model)(data)
    assert not model.replays._found
    assert all(torch.equal(found[name], value) for name, value in expected.items())
