"""The layers compiled by torch.compile, which finds one graph in each, unless kernels interrupt it."""

from contextlib import nullcontext

import pytest
import torch

from ocp_scn import SCN, SCNConfig, kernels
from ocp_scn.graph import build_graph
from ocp_scn.sphere import edge_frames
from tests.kernels import needs_kernels
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


def network(**changes):
    """Return a network, and a function of its energies and forces for some atoms."""
    torch.manual_seed(0)
    config = SCNConfig(**SETTINGS | changes)
    model = SCN(config)
    strengthen(model)
    pos = 3 * torch.rand(9, 3)
    source, target = (~torch.eye(9, dtype=torch.bool)).nonzero().T
    graph = build_graph(
        source,
        target,
        pos[source] - pos[target],
        num_resolutions=2,
        max_num_neighbors=config.max_num_neighbors,
    )
    inputs = (
        torch.randint(1, 80, (9,)),
        graph,
        edge_frames(graph.vec, torch.zeros(len(graph.vec))),
        torch.zeros(9, dtype=torch.long),
        1,
    )
    return model, lambda: model(*inputs)


@pytest.mark.parametrize("settings", [{}, {"num_taps": 4, "num_bands": 2}])
def test_layers_are_one_graph_without_kernels(settings):
    """At inference there is no graph break, and the numbers are the same."""
    model, compute = network(**settings)
    model.eval()
    with kernels.disabled(), torch.no_grad():
        expected = compute()
        for block in model.edge_blocks:
            block.compile(fullgraph=True, backend="eager")
        for found, wanted in zip(compute(), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("by", [pytest.param(nullcontext, marks=needs_kernels), kernels.disabled])
def test_compiled_layers_with_and_without_kernels(training, by):
    """Kernels are left alone by the compiler, and derivatives are those of the layers as they are."""
    model, compute = network(num_taps=2)
    model.train(training)

    def results():
        if not training:
            with torch.no_grad():
                return compute()
        model.zero_grad()
        energy, forces = compute()
        (energy.sum() + forces.square().sum()).backward()
        return [energy, forces, *(p.grad for p in model.parameters())]

    with by():
        expected = results()
        for block in model.edge_blocks:
            block.compile(backend="eager")
        for found, wanted in zip(results(), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
