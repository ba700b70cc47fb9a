"""State dicts are interchangeable with those of fairchem's built-in SCN."""

import copy
import itertools

import pytest
import torch
from fairchem.core.models.scn.scn import SphericalChannelNetwork as BuiltIn
from torch import nn

from ocp_scn import SCN, SCNConfig
from ocp_scn.state_dict import from_checkpoint_name, to_checkpoint_name

SMALL = {
    "lmax": 4,
    "num_interactions": 2,
    "sphere_channels": 6,
    "hidden_channels": 8,
    "num_basis_functions": 5,
    "num_sphere_samples": 8,
    "cutoff": 2.0,
    "distance_resolution": 0.2,
}
VARIANTS = [
    SMALL
    | {
        "distance_function": function,
        "sphere_channels_reduce": reduced,
        "regress_forces": forces,
        "use_grid": grid,
        "num_resolutions": resolutions,
    }
    for function, reduced, forces, (grid, resolutions) in itertools.product(
        ["gaussian", "silu"], [6, 4], [True, False], [(True, 2), (False, 1)]
    )
]
variants = pytest.mark.parametrize(
    "settings", VARIANTS, ids=lambda s: "-".join(str(value) for value in list(s.values())[len(SMALL) :])
)


def ours(settings, seed=1):
    torch.manual_seed(seed)
    return SCN(SCNConfig(**settings))


def built_in(settings, seed=2):
    torch.manual_seed(seed)
    return BuiltIn(**settings)


def equal_states(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@variants
def test_names_and_shapes_are_those_of_the_built_in_model(settings):
    """The same keys with the same shapes, tables of the radial basis included."""
    here, there = ours(settings).state_dict(), built_in(settings).state_dict()
    assert {name: value.shape for name, value in here.items()} == {
        name: value.shape for name, value in there.items()
    }


@variants
def test_order_of_parameters_is_that_of_the_built_in_model(settings):
    """Optimiser states and moving averages address parameters by position."""
    here = [(to_checkpoint_name(name), p.shape) for name, p in ours(settings).named_parameters()]
    there = [(name, p.shape) for name, p in built_in(settings).named_parameters()]
    assert here == there


@variants
def test_weights_of_the_built_in_model_load(settings):
    """Each weight arrives at the parameter of its name, and saving gives the same file again."""
    model, reference = ours(settings), built_in(settings)
    result = model.load_state_dict(reference.state_dict(), strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    parameters = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[to_checkpoint_name(name)]), name
    saved = model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in reference.state_dict().items())


@variants
def test_weights_load_into_the_built_in_model(settings):
    """Our state dict fits the built-in model, strictly."""
    model, reference = ours(settings), built_in(settings)
    reference.load_state_dict(model.state_dict(), strict=True)
    saved = model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in reference.state_dict().items())


@variants
def test_round_trip(settings):
    """Saved and loaded, a model has the weights it had."""
    model, other = ours(settings), ours(settings, seed=3)
    assert not equal_states(model.state_dict(), other.state_dict())
    other.load_state_dict(model.state_dict(), strict=True)
    assert equal_states(model.state_dict(), other.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@variants
def test_names_translate_forth_and_back(settings):
    """Every parameter's name survives both translations, and no two names become one."""
    names = [name for name, _ in ours(settings).named_parameters()]
    translated = [to_checkpoint_name(name) for name in names]
    assert [from_checkpoint_name(name) for name in translated] == names
    assert len(set(translated)) == len(names)


@pytest.mark.parametrize("depth", [1, 2])
def test_prefix_of_distributed_training(depth):
    """Wrapped as DistributedDataParallel wraps it, names get "module." before and load the same way."""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    def wrap(model):
        for _ in range(depth):
            model = Wrapper(model)
        return model

    model, other, reference = ours(SMALL), ours(SMALL, seed=3), built_in(SMALL)
    saved = wrap(model).state_dict()
    assert set(saved) == set(wrap(reference).state_dict())
    wrap(other).load_state_dict(saved, strict=True)
    assert equal_states(model.state_dict(), other.state_dict())
    wrap(reference).load_state_dict(saved, strict=True)
    wrap(other).load_state_dict(wrap(built_in(SMALL)).state_dict(), strict=True)
    assert equal_states(dict(other.named_parameters()), dict(copied(built_in(SMALL)).named_parameters()))


def copied(reference):
    """Return our model with the weights of the built-in one."""
    model = ours(SMALL, seed=4)
    model.load_state_dict(reference.state_dict())
    return model


def test_two_models_in_one_module():
    """Two models side by side keep their weights apart."""
    pair, other = (
        nn.ModuleList([ours(SMALL), ours(SMALL, seed=3)]),
        nn.ModuleList([ours(SMALL, 4), ours(SMALL, 5)]),
    )
    other.load_state_dict(pair.state_dict(), strict=True)
    for first, second in zip(pair, other, strict=True):
        assert equal_states(first.state_dict(), second.state_dict())


def test_loading_leaves_the_given_dictionary_alone():
    """load_state_dict does not rename keys in its caller's dictionary."""
    state = built_in(SMALL).state_dict()
    names = list(state)
    ours(SMALL).load_state_dict(state)
    assert list(state) == names


def test_copies_save_and_load():
    """A deep copy, as moving averages make them, saves its own weights under the same names."""
    model = ours(SMALL)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.sphere_embedding.weight.add_(1)
    assert list(clone.state_dict()) == list(model.state_dict())
    assert torch.equal(clone.state_dict()["sphere_embedding.weight"], model.sphere_embedding.weight + 1)


def test_missing_and_unknown_weights_are_errors():
    """Strict loading refuses a state dict that lacks a weight or has one too many."""
    state = built_in(SMALL).state_dict()
    lacking = {
        name: value for name, value in state.items() if name != "edge_blocks.1.message_blocks.0.fc1_edge.bias"
    }
    with pytest.raises(RuntimeError, match="Missing key"):
        ours(SMALL).load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*edge_blocks\.0\.fc9_sphere\.weight"):
        ours(SMALL).load_state_dict(state | {"edge_blocks.0.fc9_sphere.weight": torch.zeros(1)})


def test_tables_are_not_loaded():
    """Rounded centres of a float32 checkpoint do not replace exact ones."""
    torch.set_default_dtype(torch.float64)
    model = ours(SMALL)
    centres = model.distance_expansion.centres.clone()
    model.load_state_dict({name: value.float() for name, value in built_in(SMALL).state_dict().items()})
    assert torch.equal(model.distance_expansion.centres, centres)
