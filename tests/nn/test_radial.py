"""Radial basis functions and edge features against their formulas."""

import math

import pytest
import torch
from torch import nn

from ocp_scn.nn import EdgeFeatures, RadialBasis, polynomial_envelope

CUTOFF, NUM_RADIAL = 6.0, 9
SPACING = CUTOFF / (NUM_RADIAL - 1)


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def sigmoid(u):
    return 1 / (1 + math.exp(-u))


FORMULAS = {
    "gaussian": lambda u, w: math.exp(-0.5 * (u / w) ** 2),
    "sigmoid": lambda u, w: sigmoid(w * u),
    "linearsigmoid": lambda u, w: sigmoid(w * u) + 0.001 * w * u,
}


@pytest.mark.parametrize("width", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("function", FORMULAS)
def test_basis_functions(function, width):
    """Function i has its centre at i cutoff / (R - 1) and the width w in units of that spacing."""
    distance = torch.tensor([0.0, 0.75, 2.2, 5.99, 6.0, 7.3])
    values = RadialBasis(function, NUM_RADIAL, CUTOFF, width)(distance)
    expected = [
        [FORMULAS[function]((r - i * SPACING) / SPACING, width) for i in range(NUM_RADIAL)]
        for r in distance.tolist()
    ]
    torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-12, atol=1e-15)


def test_learned_basis():
    """silu: SiLU of a learned affine map of (r, 1)."""
    basis = RadialBasis("silu", NUM_RADIAL, CUTOFF, 1.0)
    weight, bias = basis.fc1.weight, basis.fc1.bias
    assert weight.shape == (NUM_RADIAL, 2)
    for r in (0.0, 1.3, 5.0):
        u = weight[:, 0] * r + weight[:, 1] + bias
        torch.testing.assert_close(basis(torch.tensor([r]))[0], u * torch.sigmoid(u))


def test_fixed_bases_have_nothing_to_learn():
    """Only silu has parameters."""
    counts = {f: len(list(RadialBasis(f, NUM_RADIAL, CUTOFF, 1.0).parameters())) for f in [*FORMULAS, "silu"]}
    assert counts == {"gaussian": 0, "sigmoid": 0, "linearsigmoid": 0, "silu": 2}


@pytest.mark.parametrize("function", [*FORMULAS, "silu"])
def test_basis_without_edges(function):
    """No distance, no value."""
    assert RadialBasis(function, NUM_RADIAL, CUTOFF, 1.0)(torch.zeros(0)).shape == (0, NUM_RADIAL)


def test_envelope():
    """1 at 0 and 0 from the cutoff on, where two derivatives are 0 too; 1 - 28 u^6 + ... near 0."""
    r = torch.tensor([0.0, 0.3, 2.0, CUTOFF, 7.0], requires_grad=True)
    values = polynomial_envelope(r, CUTOFF)
    u = r.detach() / CUTOFF
    inside = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
    torch.testing.assert_close(values.detach(), torch.where(u < 1, inside, 0.0), rtol=0, atol=1e-13)
    (slope,) = torch.autograd.grad(values.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(slope[3:].detach(), torch.zeros(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(curvature[3:], torch.zeros(2), rtol=0, atol=1e-11)


def test_edge_features():
    """e = SiLU(W2 SiLU(W1 RBF + B_source[Z_source] + B_target[Z_target]))."""
    features = EdgeFeatures(NUM_RADIAL, 5, 20)
    for parameter in features.parameters():
        nn.init.normal_(parameter)
    radial, source, target = (
        torch.randn(4, NUM_RADIAL),
        torch.tensor([1, 8, 19, 8]),
        torch.tensor([8, 1, 3, 8]),
    )
    silu = nn.functional.silu
    for edge, value in enumerate(features(radial, source, target)):
        elements = (
            features.source_embedding.weight[source[edge]] + features.target_embedding.weight[target[edge]]
        )
        hidden = silu(features.fc1.weight @ radial[edge] + features.fc1.bias + elements)
        torch.testing.assert_close(value, silu(features.fc2.weight @ hidden + features.fc2.bias))


def test_initial_element_embeddings():
    """Embeddings of the elements start uniform in +-0.001."""
    features = EdgeFeatures(NUM_RADIAL, 64, 90)
    for embedding in (features.source_embedding, features.target_embedding):
        values = embedding.weight.detach()
        assert values.abs().max() <= 0.001
        # Sampling errors of a mean and a variance of 5760 uniform numbers, five times over.
        assert values.mean().abs() <= 5 * 0.001 / math.sqrt(3 * 5760)
        assert (values.square().mean() / (0.001**2 / 3)).item() == pytest.approx(
            1, abs=5 * math.sqrt(0.8 / 5760)
        )
    assert not torch.equal(features.source_embedding.weight, features.target_embedding.weight)


def test_initial_maps():
    """The two maps start uniform in +-1 / sqrt(number of inputs)."""
    features = EdgeFeatures(NUM_RADIAL, 64, 90)
    for layer in (features.fc1, features.fc2):
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            assert 0.85 * bound < parameter.abs().max() <= bound


@pytest.mark.parametrize("function", ["gaussian", "silu"])
def test_every_parameter_has_a_gradient(function):
    """Each weight, and the elements that occur, affect the features."""
    basis, features = RadialBasis(function, NUM_RADIAL, CUTOFF, 1.0), EdgeFeatures(NUM_RADIAL, 5, 4)
    elements = torch.arange(4)
    features(basis(torch.linspace(1, 5, 4)), elements, elements.flip(0)).square().sum().backward()
    for name, parameter in [*basis.named_parameters(), *features.named_parameters()]:
        assert (parameter.grad.flatten(1) if parameter.grad.ndim > 1 else parameter.grad).abs().sum() > 0, (
            name
        )


def test_no_denormal_numbers():
    """Far from its centre a basis function is 0, not a number that processors are slow with."""
    basis = RadialBasis("gaussian", 400, 8.0, 2.0)(torch.linspace(0, 8, 50, dtype=torch.float32))
    assert basis[basis != 0].abs().min() >= torch.finfo(torch.float32).tiny


def test_features_in_bfloat16_have_two_derivatives():
    """As training on forces that are derivatives needs them."""
    features, elements = EdgeFeatures(NUM_RADIAL, 5, 20), torch.tensor([1, 8, 13])
    radial = torch.rand(3, NUM_RADIAL, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features(radial, elements, elements)
    (gradient,) = torch.autograd.grad(found.sum(), radial, create_graph=True)
    gradient.square().sum().backward()
    assert radial.grad.abs().sum() > 0
    assert features.fc1.weight.grad.abs().sum() > 0
