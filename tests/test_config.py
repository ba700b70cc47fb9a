"""Settings: names, ranges, contradictions, and what follows from them."""

import dataclasses
import inspect

import pytest

from ocp_scn import InputError, SCNConfig
from ocp_scn.model import SCN

# setting, value that is not allowed, what the message says is expected
REFUSED = [
    ("regress_forces", 1, "True or False"),
    ("regress_forces", "yes", "True or False"),
    ("direct_forces", 0, "True or False"),
    ("lmax", 0, "1..10"),
    ("lmax", 11, "1..10"),
    ("lmax", 4.0, "an integer"),
    ("lmax", True, "an integer"),
    ("mmax", -1, "0..10"),
    ("mmax", 11, "0..10"),
    ("num_interactions", 0, "1..1000"),
    ("num_interactions", 10**9, "1..1000"),
    ("sphere_channels", 0, "at least 1"),
    ("sphere_channels_reduce", 0, "at least 1"),
    ("hidden_channels", 0, "at least 1"),
    ("hidden_channels", "256", "an integer"),
    ("num_taps", -2, "-1..1000"),
    ("num_taps", 0, "-1 (4 mmax taps) or at least 1"),
    ("use_grid", 1, "True or False"),
    ("num_bands", 0, "at least 1"),
    ("num_sphere_samples", 0, "1..100000"),
    ("num_sphere_samples", 10**9, "1..100000"),
    ("max_num_elements", 0, "at least 1"),
    ("num_resolutions", 0, "1..2"),
    ("num_resolutions", 3, "1..2"),
    ("cutoff", 0.0, "at least 0.001"),
    ("cutoff", -8.0, "at least 0.001"),
    ("cutoff", float("nan"), "a finite number"),
    ("cutoff", "8", "a finite number"),
    ("cutoff", None, "a finite number"),
    ("max_num_neighbors", 0, "-1 (no cap) or at least 1"),
    ("max_num_neighbors", -2, "at least -1"),
    ("max_num_neighbors", 20.0, "an integer"),
    ("num_basis_functions", 0, "at least 1"),
    ("distance_function", "gauss", "one of gaussian, sigmoid, linearsigmoid, silu"),
    ("distance_function", None, "a string"),
    ("basis_width_scalar", 0.0, "at least 1e-06"),
    ("basis_width_scalar", -1, "at least 1e-06"),
    ("distance_resolution", 0.0, "at least 1e-06"),
    ("use_pbc", None, "True or False"),
    ("use_pbc_single", 1, "True or False"),
    ("otf_graph", "True", "True or False"),
    ("show_timing_info", 1, "True or False"),
    ("training_roll", "uniform", "one of random, fixed"),
    ("evaluation_roll", 0, "a string"),
    ("eval_num_taps", -2, "-1..1000"),
    ("smooth", 1, "True or False"),
    ("regress_stress", None, "True or False"),
    ("sphere_quadrature", "lebedev", "one of spiral, gauss"),
    ("grid_resolution", 12, "0 or an even number from 14, 2 (lmax + 1)"),
    ("grid_resolution", 15, "0 or an even number from 14, 2 (lmax + 1)"),
    ("grid_resolution", 202, "0..200"),
    ("keep_tied_neighbors", 1, "True or False"),
    ("compute_dtype", "float16", "one of float32, tf32, bfloat16"),
    ("cuda_graphs", "yes", "True or False"),
    ("strict_elements", "Fe", "True or False"),
]
SMOOTH = {"smooth": True, "direct_forces": False}
# Settings that are allowed one by one but not together, and the one that the message names.
CONTRADICTORY = [
    ({"lmax": 1, "mmax": 2}, "mmax=2", "0..1 (lmax)"),
    ({"lmax": 4, "mmax": 5}, "mmax=5", "0..4 (lmax)"),
    ({"lmax": 1, "num_bands": 3}, "num_bands=3", "1..2 (lmax + 1)"),
    ({"lmax": 6, "num_bands": 8}, "num_bands=8", "1..7 (lmax + 1)"),
    ({"cutoff": 0.03}, "distance_resolution=0.02", "at most cutoff / 2 = 0.015"),
    ({"cutoff": 8.0, "distance_resolution": 5.0}, "distance_resolution=5.0", "at most cutoff / 2 = 4.0"),
    ({"hidden_channels": 3}, "hidden_channels=3", "at least 4 (num_resolutions=2 gives far edges a quarter)"),
    (
        {"regress_forces": False, "direct_forces": False},
        "direct_forces=False",
        "True (regress_forces=False predicts no forces)",
    ),
    (
        {"regress_stress": True},
        "regress_stress=True",
        "False (direct_forces=True; stress is a derivative of the energy, as gradient forces are)",
    ),
    (SMOOTH, "max_num_neighbors=20", "-1 (smooth=True: neighbours beyond a cap come and go)"),
    (
        SMOOTH | {"max_num_neighbors": -1},
        "num_resolutions=2",
        "1 (smooth=True: edges change the resolution with their rank)",
    ),
    (
        SMOOTH | {"max_num_neighbors": -1, "num_resolutions": 1},
        "mmax=1",
        "0 (smooth=True: frames jump somewhere, and orders above 0 see it)",
    ),
    (
        {"sphere_quadrature": "gauss", "num_sphere_samples": 100},
        "num_sphere_samples=100",
        "2 n^2 (sphere_quadrature=gauss), such as 98",
    ),
]


def test_every_setting_has_a_value_that_is_refused():
    """No setting is taken without a look."""
    assert {name for name, _, _ in REFUSED} == {f.name for f in dataclasses.fields(SCNConfig)}


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_value_out_of_range(name, value, expected):
    """The error names the setting, the value and the range."""
    with pytest.raises(InputError) as error:
        SCNConfig.from_settings({name: value})
    assert str(error.value) == f"model setting {name}={value!r}; expected {expected}"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lmax": 4, "mmax": 2, "num_bands": 2, "sphere_channels_reduce": 32, "num_interactions": 3},
        {"num_resolutions": 1, "use_grid": False, "distance_function": "silu", "direct_forces": False},
    ],
)
def test_the_number_of_weights_is_the_models(settings):
    """It is known before the model takes memory for them."""
    config = SCNConfig(**{"sphere_channels": 16, "hidden_channels": 32, "num_interactions": 1} | settings)
    assert config.num_weights == sum(weight.numel() for weight in SCN(config).parameters())


@pytest.mark.parametrize(
    "name",
    [
        "sphere_channels",
        "sphere_channels_reduce",
        "hidden_channels",
        "num_basis_functions",
        "max_num_elements",
    ],
)
def test_more_weights_than_memory(name):
    """A width that nobody means is refused before memory is taken."""
    with pytest.raises(InputError, match=r"weights; expected at most 2,000,000,000$"):
        SCNConfig.from_settings({name: 10**9})


@pytest.mark.parametrize("name", ["cutoff", "basis_width_scalar", "distance_resolution"])
def test_infinite_lengths(name):
    """An infinite number is refused with the setting's name, as any other value out of range."""
    with pytest.raises(InputError, match=f"^model setting {name}="):
        SCNConfig.from_settings({name: float("inf")})


@pytest.mark.parametrize(("settings", "named", "expected"), CONTRADICTORY)
def test_contradictory_settings(settings, named, expected):
    """The error names one of the settings and the range that the others leave."""
    with pytest.raises(InputError) as error:
        SCNConfig.from_settings(settings)
    assert str(error.value) == f"model setting {named}; expected {expected}"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lamx", "lmax"),
        ("num_tap", "num_taps"),
        ("spherical_channels", "sphere_channels"),
        ("Cutoff", "cutoff"),
    ],
)
def test_unknown_key_names_the_nearest(key, nearest):
    """A misspelt key is an error that names the setting it may have meant."""
    with pytest.raises(InputError, match=f"^unknown model setting '{key}'; did you mean '{nearest}'\\?$"):
        SCNConfig.from_settings({key: 1})


def test_unknown_key_without_a_near_one():
    """A key like no other is an error that lists all settings."""
    with pytest.raises(
        InputError, match=r"unknown model setting 'xyz'; known: regress_forces, .*grid_resolution"
    ):
        SCNConfig.from_settings({"xyz": 1})


def test_input_errors_are_value_errors():
    """Code that does not know this package can catch ValueError."""
    assert issubclass(InputError, ValueError)


def test_names_and_defaults_are_those_of_the_built_in_model():
    """Configuration files mean the same for both models."""
    scn = pytest.importorskip("fairchem.core.models.scn.scn", reason="fairchem 2 has no SCN of its own")
    signature = inspect.signature(scn.SphericalChannelNetwork)
    built_in = {name: p.default for name, p in signature.parameters.items()}
    ours = {f.name: f.default for f in dataclasses.fields(SCNConfig)}
    assert {name: ours[name] for name in built_in} == built_in


@pytest.mark.parametrize(
    ("settings", "taps"),
    [
        ({}, 4),
        ({"mmax": 0}, 1),
        ({"mmax": 2}, 8),
        ({"num_taps": 1}, 1),
        ({"mmax": 0, "num_taps": 3}, 3),
        ({"num_taps": 5}, 5),
    ],
)
def test_taps(settings, taps):
    """-1 means 4 mmax taps, 1 for mmax 0; any other number is taken as it is."""
    assert SCNConfig(**settings).taps == taps


@pytest.mark.parametrize(
    ("settings", "taps"),
    [
        ({}, 4),
        ({"num_taps": 1}, 1),
        ({"num_taps": 1, "eval_num_taps": 16}, 16),
        ({"eval_num_taps": -1, "mmax": 2}, 8),
    ],
)
def test_taps_in_evaluation(settings, taps):
    """0 means the taps of training, -1 means 4 mmax; any other number is taken as it is."""
    assert SCNConfig(**settings).eval_taps == taps


@pytest.mark.parametrize(("lmax", "far"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 4), (7, 5), (10, 8)])
def test_resolutions(lmax, far):
    """Far edges have the degree min(L, max(4, L - 2)), never more than lmax, and a quarter of the width."""
    config = SCNConfig(lmax=lmax, hidden_channels=20)
    assert config.resolutions == [(lmax, 20), (far, 5)]
    assert SCNConfig(lmax=lmax, hidden_channels=20, num_resolutions=1).resolutions == [(lmax, 20)]


@pytest.mark.parametrize(("cutoff", "resolution", "number"), [(8.0, 0.02, 400), (6, 0.5, 12), (1.0, 0.3, 3)])
def test_number_of_radial_functions(cutoff, resolution, number):
    """There are int(cutoff / distance_resolution) functions; whole numbers are numbers too."""
    assert SCNConfig(cutoff=cutoff, distance_resolution=resolution).num_radial == number


def test_settings_are_frozen():
    """Nothing changes a setting after the model was built from it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCNConfig().lmax = 3


def test_published_configuration_loads():
    """The model section of the published SCN trained on all of OC20 and MD, word for word."""
    published = {
        "num_interactions": 16,
        "hidden_channels": 1024,
        "sphere_channels": 128,
        "sphere_channels_reduce": 128,
        "num_sphere_samples": 128,
        "num_basis_functions": 128,
        "distance_function": "gaussian",
        "show_timing_info": False,
        "max_num_neighbors": 40,
        "cutoff": 8.0,
        "lmax": 6,
        "num_bands": 2,
        "use_grid": True,
        "regress_forces": True,
        "use_pbc": True,
        "basis_width_scalar": 2.0,
        "otf_graph": True,
    }
    config = SCNConfig.from_settings(published)
    assert {name: getattr(config, name) for name in published} == published
    assert (config.taps, config.num_radial, config.resolutions) == (4, 400, [(6, 1024), (4, 256)])


@pytest.mark.parametrize(
    ("settings", "trained", "missing"),
    [
        ({}, ["energy", "forces"], None),
        ({}, ["energy"], "forces"),
        ({}, ["forces"], "energy"),
        ({"regress_forces": False}, ["energy"], None),
        ({"regress_forces": False}, [], "energy"),
        ({"direct_forces": False}, ["energy"], None),
        ({"direct_forces": False}, ["forces"], None),
    ],
)
def test_a_readout_is_trained_by_its_losses_and_those_of_derivatives(settings, trained, missing):
    assert SCNConfig.from_settings(settings).untrained(trained) == missing
