"""What an inference checkpoint of fairchem-core 2 has, read without fairchem-core 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError, cause
from ocp_scn.model import SCN
from ocp_scn.state_dict import keep_own_names
from ocp_scn.trained import ELEMENTS_KEY, Trained, check_size, load_weights
from ocp_scn.unpickling import TRUST, trusted

_V2, _NORMALIZATION = "ocp_scn.fairchem.v2", "fairchem.core.modules.normalization"
# Classes that inference checkpoints are made of.
CONTAINER = ("fairchem.core.units.mlip_unit.api.inference", "MLIPInferenceCheckpoint")
CLASSES = {
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.nodes", "AnyNode"),
    ("typing", "Any"),
}
# What configurations in them name, which fairchem calls.
BACKBONE = f"{_V2}.SCNBackbone"
# Normalizers and references whose arguments are their numbers.
_NORMALIZERS = (f"{_V2}.float_normalizer", f"{_NORMALIZATION}.normalizer.Normalizer")
_REFERENCES, _TENSOR = f"{_NORMALIZATION}.element_references.ElementReferences", "torch.DoubleTensor"
_LOSSES = ("DDPMTLoss", "DDPLoss", "MAELoss", "PerAtomMAELoss", "MSELoss", "L2NormLoss")
NAMES = {
    *(BACKBONE, *_NORMALIZERS, _REFERENCES, _TENSOR, f"{_V2}.element_references"),
    *(f"{_V2}.{name}" for name in ("SCNModel", "EnergyHead", "ForceHead", "ConservativeHead")),
    *(f"fairchem.core.modules.loss.{name}" for name in _LOSSES),
    "fairchem.core.units.mlip_unit.mlip_unit.Task",
}
_PREFIX = "backbone."  # of the network's weights
# A setting of the backbone beside the network's.
_SEARCH = "radius_pbc_version"


class InferenceCheckpoint:
    """Stands in for fairchem's container of a checkpoint, whose attributes it gets."""

    model_config: Any = None
    model_state_dict: Any = None
    ema_state_dict: Any = None
    tasks_config: Any = None


STAND_INS = {CONTAINER: InferenceCheckpoint}


def check_content(checkpoint: Any) -> None:
    """Check the parts of a checkpoint, and what its configuration names.

    Raises:
        InputError: for a part of another kind, or another name, unless the user trusts it.
    """
    weights = checkpoint.model_state_dict, checkpoint.ema_state_dict
    for name, part in zip(("model_state_dict", "ema_state_dict"), weights, strict=True):
        average = name == "ema_state_dict" and part is None
        if not average and not (
            isinstance(part, Mapping) and all(isinstance(value, Tensor) for value in part.values())
        ):
            raise InputError(f"its {name} is no section of tensors")
    try:
        model, tasks = _plain(checkpoint.model_config), _plain(checkpoint.tasks_config)
    except OmegaConfBaseException as error:
        raise InputError(f"its configuration cannot be read: {cause(error)}") from error
    if not isinstance(model, Mapping) or not isinstance(model.get("backbone"), Mapping):
        raise InputError("its model_config has no section 'backbone'")
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise InputError("its tasks_config is no list of tasks")
    if not trusted():
        _check_names(model)
        _check_names(tasks)


def _check_names(section: Any) -> None:
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key in ("finetune_config", "starting_checkpoint"):  # which fairchem would read, too
                raise InputError(f"refused {key}: {value!r}; for files that you trust, set {TRUST}=1")
            if key in ("_target_", "model", "module") and value not in NAMES:
                raise InputError(
                    f"refused {key}: {value!r}, which no checkpoint of this package names; "
                    f"for files that you trust, set {TRUST}=1"
                )
            _check_names(value)
    elif isinstance(section, list):
        for value in section:
            _check_names(value)


def from_fairchem2(checkpoint: Any) -> Trained:
    """Return what a checkpoint has: ``model_config``, ``tasks_config`` and state dicts are its attributes.

    Raises:
        InputError: for another model, one of several data sets, or numbers that its configuration has not.
    """
    check_content(checkpoint)
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
    if config["_target_"] != _REFERENCES or values["_target_"] != _TENSOR:
        raise InputError(f"task {task['name']!r}: its references are a {config['_target_']}, not numbers")
    return [float(value) for value in values["_args_"][0]]


def _weights(model: SCN, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name.split(_PREFIX, 1)[1]: value for name, value in state.items() if _PREFIX in name}
    load_weights(model, found)
    return {name: found[name].clone() for name, _ in model.named_parameters()}


def _plain(config: Any) -> Any:
    is_config = isinstance(config, DictConfig | ListConfig)
    return OmegaConf.to_container(config, resolve=True) if is_config else config
