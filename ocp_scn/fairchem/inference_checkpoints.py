"""What an inference checkpoint of fairchem-core 2 has, read without fairchem-core 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.model import SCN
from ocp_scn.state_dict import keep_own_names
from ocp_scn.trained import ELEMENTS_KEY, Trained, check_size, load_weights

BACKBONE = "ocp_scn.fairchem.v2.SCNBackbone"
# Classes of normalizers and of references whose arguments are their numbers.
_NORMALIZERS = [
    "ocp_scn.fairchem.v2.float_normalizer",
    "fairchem.core.modules.normalization.normalizer.Normalizer",
]
_REFERENCES = "fairchem.core.modules.normalization.element_references.ElementReferences"
_TENSORS = ("torch.DoubleTensor", "torch.FloatTensor")
_PREFIX = "backbone."  # of the network's weights
# A setting of the backbone beside the network's.
_SEARCH = "radius_pbc_version"


def from_fairchem2(checkpoint: Any) -> Trained:
    """Return what a checkpoint has: ``model_config``, ``tasks_config`` and state dicts are its attributes.

    Raises:
        InputError: for another model, one of several data sets, or numbers that its configuration has not.
    """
    settings = dict(_plain(checkpoint.model_config)["backbone"])
    if settings.pop("model", None) != BACKBONE:
        raise InputError("it is of another model, whose backbone is not SCNBackbone")
    settings.pop(_SEARCH, None)
    elements = settings.pop(ELEMENTS_KEY, None)
    settings["otf_graph"] = True
    config = SCNConfig.from_settings(settings)
    check_size(config, checkpoint.model_state_dict)
    model = SCN(config)
    keep_own_names(model)
    weights = _weights(model, checkpoint.model_state_dict)
    average = checkpoint.ema_state_dict
    averaged = weights if average is None else _weights(model, average)
    tasks: Sequence[Mapping[str, Any]] = _plain(checkpoint.tasks_config)
    by_property = {task["property"]: task for task in tasks}
    if len(by_property) != len(tasks):
        names = ", ".join(task["name"] for task in tasks)
        raise InputError(f"it has several tasks of one property: {names}")
    if "energy" not in by_property:
        raise InputError(f"it has no task for the energy; its tasks are {', '.join(by_property) or 'none'}")
    normalizers = {name: _normalizer(task) for name, task in by_property.items()}
    return Trained(settings, weights, averaged, normalizers, _references(by_property["energy"]), elements)


def _normalizer(task: Mapping[str, Any]) -> tuple[float, float]:
    config = task.get("normalizer") or {"_target_": _NORMALIZERS[0]}
    if config["_target_"] not in _NORMALIZERS:
        raise InputError(f"task {task['name']!r}: its normalizer is a {config['_target_']}, not numbers")
    return float(config.get("mean", 0.0)), float(config.get("rmsd", 1.0))


def _references(task: Mapping[str, Any]) -> list[float] | None:
    config = task.get("element_references")
    if config is None:
        return None
    values = config.get("element_references")
    if config["_target_"] != _REFERENCES or values["_target_"] not in _TENSORS:
        raise InputError(f"task {task['name']!r}: its references are a {config['_target_']}, not numbers")
    return [float(value) for value in values["_args_"][0]]


def _weights(model: SCN, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name.split(_PREFIX, 1)[1]: value for name, value in state.items() if _PREFIX in name}
    load_weights(model, found)
    return {name: found[name].clone() for name, _ in model.named_parameters()}


def _plain(config: Any) -> Any:
    is_config = isinstance(config, DictConfig | ListConfig)
    return OmegaConf.to_container(config, resolve=True) if is_config else config
