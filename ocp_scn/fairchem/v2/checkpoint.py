"""Inference checkpoints of fairchem-core 2, which its predictor, calculator and evaluation read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import torch
from fairchem.core.models.base import _get_dataset_to_tasks_map
from fairchem.core.units import mlip_unit
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ocp_scn import torch_files
from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.files import of_other_line
from ocp_scn.fairchem.v2.backbone import SCNBackbone
from ocp_scn.fairchem.v2.references import task_config
from ocp_scn.fairchem.v2.tasks import check_tasks
from ocp_scn.trained import Trained, load_weights
from ocp_scn.unpickling import TRUST, trusted

_HERE = "ocp_scn.fairchem.v2"
_NORMALIZATION = "fairchem.core.modules.normalization"
_BACKBONE = "backbone."

_LOSSES = ("DDPMTLoss", "DDPLoss", "MAELoss", "PerAtomMAELoss", "MSELoss", "L2NormLoss")
# Classes that inference checkpoints are made of.
CLASSES = {
    ("fairchem.core.units.mlip_unit.api.inference", "MLIPInferenceCheckpoint"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.nodes", "AnyNode"),
    ("typing", "Any"),
}
# What configurations in them name, which fairchem calls.
NAMES = {
    *(
        f"{_HERE}.{name}"
        for name in ("SCNModel", "SCNBackbone", "EnergyHead", "ForceHead", "ConservativeHead")
    ),
    *(f"{_HERE}.{name}" for name in ("float_normalizer", "element_references")),
    *(f"fairchem.core.modules.loss.{name}" for name in _LOSSES),
    f"{_NORMALIZATION}.normalizer.Normalizer",
    f"{_NORMALIZATION}.element_references.ElementReferences",
    "fairchem.core.units.mlip_unit.mlip_unit.Task",
    "torch.DoubleTensor",
}


def is_checkpoint(loaded: Any) -> bool:
    """Tell whether a loaded file is an inference checkpoint."""
    return isinstance(loaded, MLIPInferenceCheckpoint)


def check_line(path: str | Path) -> MLIPInferenceCheckpoint:
    """Return a checkpoint whose configuration names only what this package's checkpoints do.

    fairchem imports and calls whatever a configuration names.

    Raises:
        InputError: for what is none, such as one of fairchem-core 1, or for other names, unless the user
            trusts the file.
    """
    loaded = torch_files.read(path, more=CLASSES, mmap=True)
    if isinstance(loaded, Mapping) and "state_dict" in loaded:
        raise InputError(of_other_line(1, path))
    if not is_checkpoint(loaded):
        raise InputError(f"{path} is no inference checkpoint of fairchem-core 2, such as inference_ckpt.pt")
    try:
        check_content(loaded)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return loaded


def check_content(checkpoint: MLIPInferenceCheckpoint) -> None:
    """Check the parts of a checkpoint, and what its configuration names.

    Raises:
        InputError: for a part of another kind, or another name, unless the user trusts it.
    """
    weights = checkpoint.model_state_dict, checkpoint.ema_state_dict
    for name, part in zip(("model_state_dict", "ema_state_dict"), weights, strict=True):
        average = name == "ema_state_dict" and part is None
        if not average and not (
            isinstance(part, Mapping) and all(isinstance(value, torch.Tensor) for value in part.values())
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
                raise InputError(f"refused {key}: {value!r}; {TRUST}=1 reads files of those whom you trust")
            if key in ("_target_", "model", "module") and value not in NAMES:
                raise InputError(
                    f"refused {key}: {value!r}, which no checkpoint of this package names; "
                    f"{TRUST}=1 reads files of those whom you trust"
                )
            _check_names(value)
    elif isinstance(section, list):
        for value in section:
            _check_names(value)


def load_predict_unit(path: str | Path, *args: Any, **options: Any) -> Any:
    """Return fairchem's ``load_predict_unit`` of a checkpoint; see :func:`check_line` for errors."""
    check_line(path)
    return mlip_unit.load_predict_unit(path, *args, **options)


def load_inference_model(checkpoint_location: str | Path, *args: Any, **options: Any) -> Any:
    """Return fairchem's ``load_inference_model`` of a checkpoint; see :func:`check_line` for errors."""
    check_line(checkpoint_location)
    return mlip_unit.mlip_unit.load_inference_model(checkpoint_location, *args, **options)


def load_tasks(checkpoint_location: str | Path) -> list[Any]:
    """Return the tasks of an inference checkpoint; fairchem's function of this name does not check them.

    Raises:
        InputError: for tasks that would give wrong numbers without a word; see :func:`check_line` for others.
    """
    checkpoint = check_line(checkpoint_location)
    tasks = [hydra.utils.instantiate(task) for task in checkpoint.tasks_config]
    direct_forces = checkpoint.model_config["backbone"].get("direct_forces", True)
    check_tasks(_get_dataset_to_tasks_map(tasks), direct_forces=direct_forces)
    return tasks


def read(checkpoint: MLIPInferenceCheckpoint) -> Trained:
    """Return what a checkpoint has.

    Raises:
        InputError: for another model, or one of several data sets.
    """
    settings = dict(_plain(checkpoint.model_config)["backbone"])
    if settings.pop("model", None) != f"{_HERE}.{SCNBackbone.__name__}":
        raise InputError("it is of another model, whose backbone is not SCNBackbone")
    backbone = SCNBackbone(**settings)
    weights = _weights(backbone, checkpoint.model_state_dict)
    average = checkpoint.ema_state_dict
    averaged = weights if average is None else _weights(backbone, average)
    try:
        tasks = [hydra.utils.instantiate(task) for task in checkpoint.tasks_config]
    except HydraException as error:
        raise InputError(f"its tasks cannot be made: {cause(error)}") from error
    by_property = {task.property: task for task in tasks}
    if len(by_property) != len(tasks):
        raise InputError(f"it has several tasks of one property: {', '.join(task.name for task in tasks)}")
    if "energy" not in by_property:
        raise InputError(f"it has no task of energies, but of {', '.join(by_property) or 'nothing'}")
    normalizers = {
        name: (float(task.normalizer.mean), float(task.normalizer.rmsd)) for name, task in by_property.items()
    }
    settings.pop("radius_pbc_version", None)
    elements = settings.pop("trained_elements", None)
    references = by_property["energy"].element_references
    if references is not None:
        references = references.element_references.double().tolist()
    return Trained({**settings, "otf_graph": True}, weights, averaged, normalizers, references, elements)


def build(trained: Trained, task_name: str) -> MLIPInferenceCheckpoint:
    """Return a checkpoint whose tasks are TASK_NAME_energy and, with forces, TASK_NAME_forces."""
    config = trained.config
    names = ["energy", "forces"] if config.regress_forces else ["energy"]
    known = {} if trained.elements is None else {"trained_elements": list(trained.elements)}
    model: dict[str, Any] = {
        "_target_": f"{_HERE}.SCNModel",
        "backbone": {"model": f"{_HERE}.SCNBackbone", **trained.settings, **known},
        "heads": {
            f"{task_name}_{name}": {"module": f"{_HERE}.{head}"}
            for name, head in zip(names, ("EnergyHead", "ForceHead"), strict=False)
        },
    }
    if not config.direct_forces:
        model["pass_through_head_outputs"] = True
        model["heads"] = {"derivatives": {"module": f"{_HERE}.ConservativeHead", "prefix": task_name}}
    average = {f"module.{_BACKBONE}{name}": value for name, value in trained.averaged.items()}
    return MLIPInferenceCheckpoint(
        model_config=OmegaConf.create(model),
        model_state_dict={_BACKBONE + name: value for name, value in trained.weights.items()},
        ema_state_dict={"n_averaged": torch.tensor(0), **average},
        tasks_config=OmegaConf.create([_task(trained, task_name, name) for name in names]),
    )


def _task(trained: Trained, task_name: str, name: str) -> dict[str, Any]:
    mean, rmsd = trained.normalizers.get(name, (0.0, 1.0))
    task = {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        "name": f"{task_name}_{name}",
        "level": "system" if name == "energy" else "atom",
        "property": name,
        "datasets": [task_name],
        "out_spec": {"dim": [1] if name == "energy" else [3], "dtype": "float32"},
        "normalizer": {"_target_": f"{_NORMALIZATION}.normalizer.Normalizer", "mean": mean, "rmsd": rmsd},
        "metrics": ["mae"] if name == "energy" else ["mae", "cosine_similarity"],
        "loss_fn": {
            "_target_": "fairchem.core.modules.loss.DDPMTLoss",
            "loss_fn": {
                "_target_": f"fairchem.core.modules.loss.{'MAELoss' if name == 'energy' else 'L2NormLoss'}"
            },
        },
    }
    if name == "energy" and trained.references is not None:
        task["element_references"] = task_config(trained.references)
    return task


def _weights(backbone: SCNBackbone, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name.split(_BACKBONE, 1)[1]: value for name, value in state.items() if _BACKBONE in name}
    load_weights(backbone, found)
    return {name: found[name].clone() for name, _ in backbone.named_parameters()}


def _plain(config: Any) -> Any:
    return (
        OmegaConf.to_container(config, resolve=True)
        if isinstance(config, DictConfig | ListConfig)
        else config
    )
