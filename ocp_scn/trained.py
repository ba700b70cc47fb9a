"""A trained network in nobody's format, and the checkpoints of fairchem-core 1 as one of its forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.model import SCN

NAMES = ("scn", "ocp_scn")
ELEMENTS_KEY = "trained_elements"  # of a configuration in a checkpoint: atomic numbers
# Names of normalizers before 2023.
OLD_TARGETS = {"target": "energy", "grad_target": "forces"}
# Settings that change how the same function of the weights is computed, or what else is trained.
_FREE = {"compute_dtype", "cuda_graphs", "strict_elements", "training_roll", "evaluation_roll"}
_FREE |= {"eval_num_taps", "use_pbc_single", "otf_graph", "show_timing_info", "regress_stress"}


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        settings: of `SCNConfig`.
        weights: by the names that they have here.
        averaged: the moving average of the weights, which predicts; the weights where there is none.
        normalizers: mean and rmsd of ``energy`` and ``forces``, in eV and eV/Å.
        references: energy of each element, eV, by atomic number; None without.
        elements: atomic numbers in its training data; None where that is not known.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    averaged: dict[str, Tensor]
    normalizers: dict[str, tuple[float, float]]
    references: list[float] | None = None
    elements: list[int] | None = None

    @property
    def config(self) -> SCNConfig:
        """The settings, checked."""
        return SCNConfig.from_settings(self.settings)


def from_fairchem1(checkpoint: Mapping[str, Any]) -> Trained:
    """Return what a checkpoint of fairchem-core 1 has, a published one of 2022 included.

    Raises:
        InputError: for another model, unknown settings, or weights that do not fit them.
    """
    settings = settings_of_fairchem1(checkpoint["config"])
    config, state = SCNConfig.from_settings(settings), _without_prefix(checkpoint["state_dict"])
    check_size(config, state)
    model = SCN(config)
    load_weights(model, state)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    averaged = dict(weights)
    ema = checkpoint.get("ema")
    if ema is not None:
        shadows = ema["shadow_params"]
        if [value.shape for value in shadows] != [value.shape for value in weights.values()]:
            raise InputError(
                f"its moving average has {len(shadows)} weights, not the {len(weights)} of the model"
            )
        averaged = dict(zip(weights, shadows, strict=True))
    normalizers = {
        OLD_TARGETS.get(name, name): (float(state["mean"]), float(state.get("rmsd", state.get("std"))))
        for name, state in (checkpoint.get("normalizers") or {}).items()
    }
    references = (checkpoint.get("elementrefs") or {}).get("energy")
    if references is not None:
        references = references["element_references"].double().flatten().tolist()
    elements = checkpoint["config"].get(ELEMENTS_KEY)
    return Trained(settings, weights, averaged, normalizers, references, elements)


def to_fairchem1(trained: Trained) -> dict[str, Any]:
    """Return a checkpoint that fairchem-core 1 predicts, validates and trains on with.

    Its weights are the averaged ones, as in fairchem's ``best_checkpoint.pt``.
    """
    config = trained.config
    model = SCN(config)
    copy_weights(model, trained.averaged)
    targets = ["energy", "forces"] if config.regress_forces else ["energy"]
    elements = {} if trained.elements is None else {ELEMENTS_KEY: list(trained.elements)}
    references = {}
    if trained.references is not None:
        references = {"energy": {"element_references": torch.tensor(trained.references)}}
    return {
        "state_dict": dict(model.state_dict()),
        "normalizers": {
            name: {"mean": torch.tensor(mean), "rmsd": torch.tensor(rmsd)}
            for name, (mean, rmsd) in trained.normalizers.items()
        },
        "elementrefs": references,
        "config": {**_config_of_fairchem1(trained.settings, targets), **elements},
        "val_metrics": None,
        "amp": None,
    }


def check_size(config: SCNConfig, weights: Mapping[str, Tensor]) -> None:
    """Check that there are as many weights as settings ask for, before a model takes memory for them.

    Raises:
        InputError: if there are fewer.
    """
    found = sum(weight.numel() for weight in weights.values())
    if found < config.num_weights:
        raise InputError(f"its weights do not fit its settings: {found:,} of {config.num_weights:,}")


def check_settings(found: SCNConfig, wanted: SCNConfig, path: str) -> None:
    """Check that a training may begin with the weights of a checkpoint, whose settings were ``found``.

    Raises:
        InputError: for settings that differ, and by which the weights would mean something else.
    """
    before, after = asdict(found), asdict(wanted)
    differing = [name for name in before if name not in _FREE and before[name] != after[name]]
    if differing:
        old, new = (", ".join(f"{name}={of[name]!r}" for name in differing) for of in (before, after))
        raise InputError(f"{path} has a model of {old}, and the configuration of {new}; leave these out")


def without_forces(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the same network that predicts its energy alone."""
    of_forces = ("direct_forces", "regress_stress")
    return {**{key: settings[key] for key in settings if key not in of_forces}, "regress_forces": False}


def copy_weights(model: SCN, weights: Mapping[str, Tensor]) -> None:
    """Give a model the weights of a `Trained`, under the names that they have here; it may have fewer."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])


def load_weights(model: SCN, weights: Mapping[str, Tensor]) -> None:
    """Load weights under the names that ``model`` has in state dicts.

    Raises:
        InputError: if they do not fit.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(f"its weights do not fit its settings: {reason}") from error


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(weights)
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    if "sphere_embedding.weight" not in found:
        raise InputError(f"it is of another model: its first weight is {next(iter(found), None)!r}")
    return found


def settings_of_fairchem1(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's settings in a checkpoint's configuration; those of 2022 stand beside its name.

    Raises:
        InputError: for another model.
    """
    model = config.get("model")
    settings = (
        dict(model) if isinstance(model, Mapping) else dict(config.get("model_attributes", {}), name=model)
    )
    name = settings.pop("name")
    if name not in NAMES:
        raise InputError(f"it is of the model {name!r}; expected {' or '.join(NAMES)}")
    return {**settings, "otf_graph": True}


def _config_of_fairchem1(settings: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that fairchem's calculator reads of a checkpoint."""
    losses = {"energy": "mae", "forces": "l2mae"}
    levels = {"energy": {"shape": 1, "level": "system"}, "forces": {"irrep_dim": 1, "level": "atom"}}
    return {
        "trainer": "ocp",
        "model": {"name": "ocp_scn", **settings},
        "dataset": {"src": ""},
        "outputs": {name: levels[name] for name in targets},
        "loss_functions": [{name: {"fn": losses[name], "coefficient": 1}} for name in targets],
        "evaluation_metrics": {"metrics": {name: ["mae"] for name in targets}},
        "optim": {"batch_size": 1, "eval_batch_size": 1, "optimizer": "AdamW", "lr_initial": 0.0},
        "task": {"prediction_dtype": "float32"},
        "cmd": {"seed": 0},
    }
