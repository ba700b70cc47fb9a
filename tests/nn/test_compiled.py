"""The layers compiled by torch.compile, which finds one graph in each."""

import pytest
import torch

from ocp_scn import SCN, SCNConfig
from ocp_scn.graph import build_graph
from ocp_scn.sphere import edge_frames
from tests.weights import strengthen

SETTINGS = {
    "lmax": 3,
    "num_interactions": 2,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "hidden_channels": 12,
    "num_basis_functions": 5,
    "num_sphere_samples": 8,
    "cutoff": 6.0,
    "distance_resolution": 0.5,
}


@pytest.fixture(autouse=True)
def fresh():
    """Forget what was compiled before."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(num_atoms=9, **changes):
    """Return a network, and a function of its energies and forces for some atoms."""
    torch.manual_seed(0)
    config = SCNConfig(**SETTINGS | changes)
    model = SCN(config)
    strengthen(model)
    return model, lambda num_atoms=num_atoms: model(*inputs(config, num_atoms))


def inputs(config, num_atoms):
    """Return what a network takes for some atoms that are all neighbours."""
    torch.manual_seed(num_atoms)
    pos = 3 * torch.rand(num_atoms, 3)
    source, target = (~torch.eye(num_atoms, dtype=torch.bool)).nonzero().T
    graph = build_graph(
        source,
        target,
        pos[source] - pos[target],
        num_resolutions=2,
        max_num_neighbors=config.max_num_neighbors,
    )
    frames = edge_frames(graph.vec, torch.zeros(len(graph.vec)))
    return torch.randint(1, 80, (num_atoms,)), graph, frames, torch.zeros(num_atoms, dtype=torch.long), 1


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("settings", [{}, {"num_taps": 4, "num_bands": 2}])
@pytest.mark.parametrize("training", [False, True])
def test_layers_are_one_graph(settings, training):
    """There is no graph break, operators included, and numbers and derivatives are the same for any size."""
    model, compute = network(training_roll="fixed", **settings)
    model.train(training)

    def results(num_atoms):
        if not training:
            with torch.no_grad():
                return compute(num_atoms)
        model.zero_grad()
        energy, forces = compute(num_atoms)
        (energy.sum() + forces.square().sum()).backward()
        return [energy.detach(), forces.detach(), *(p.grad for p in model.parameters())]

    expected = {size: results(size) for size in (9, 11, 7)}
    for block in model.edge_blocks:
        block.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    for size, wanted in expected.items():
        for one, other in zip(results(size), wanted, strict=True):
            close(one, other)


@pytest.mark.slow
def test_compiled_by_inductor():
    """The default compiler computes the same."""
    model, compute = network(num_taps=4, num_interactions=1)
    model.eval()
    with torch.no_grad():
        expected = compute()
        for block in model.edge_blocks:
            block.compile(fullgraph=True, dynamic=True)
        for one, other in zip(compute(), expected, strict=True):
            close(one, other)
