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
from omegaconf import OmegaConf

from ocp_scn import torch_files
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import of_other_line
from ocp_scn.fairchem.finite import check_finite_weights
from ocp_scn.fairchem.inference_checkpoints import CLASSES, CONTAINER, check_content
from ocp_scn.fairchem.v2.references import task_config
from ocp_scn.fairchem.v2.tasks import check_tasks
from ocp_scn.trained import Trained

_HERE = "ocp_scn.fairchem.v2"
_NORMALIZATION = "fairchem.core.modules.normalization"
_BACKBONE = "backbone."


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
    loaded = torch_files.read(path, more={*CLASSES, CONTAINER}, mmap=True)
    if isinstance(loaded, Mapping) and "state_dict" in loaded:
        raise InputError(of_other_line(1, path))
    if not is_checkpoint(loaded):
        raise InputError(f"{path} is no inference checkpoint of fairchem-core 2, such as inference_ckpt.pt")
    try:
        check_content(loaded)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for state in (loaded.model_state_dict, loaded.ema_state_dict or {}):
        check_finite_weights(str(path), state)
    return loaded


def load_predict_unit(path: str | Path, *args: Any, **options: Any) -> Any:
    """Return fairchem's ``load_predict_unit`` of a checkpoint; see `check_line` for errors."""
    check_line(path)
    return mlip_unit.load_predict_unit(path, *args, **options)


def load_inference_model(checkpoint_location: str | Path, *args: Any, **options: Any) -> Any:
    """Return fairchem's ``load_inference_model`` of a checkpoint; see `check_line` for errors."""
    check_line(checkpoint_location)
    return mlip_unit.mlip_unit.load_inference_model(checkpoint_location, *args, **options)


def load_tasks(checkpoint_location: str | Path) -> list[Any]:
    """Return the tasks of an inference checkpoint; fairchem's function of this name does not check them.

    Raises:
        InputError: for tasks that would give wrong numbers without a word; see `check_line` for others.
    """
    checkpoint = check_line(checkpoint_location)
    tasks = [hydra.utils.instantiate(task) for task in checkpoint.tasks_config]
    direct_forces = checkpoint.model_config["backbone"].get("direct_forces", True)
    check_tasks(_get_dataset_to_tasks_map(tasks), direct_forces=direct_forces)
    return tasks


def build(trained: Trained, task_name: str) -> MLIPInferenceCheckpoint:
    """Return a checkpoint whose tasks are TASK_NAME_energy and, with forces, TASK_NAME_forces."""
    names = ["energy", "forces"] if trained.config.regress_forces else ["energy"]
    model = model_config(trained, task_name)
    average = {f"module.{_BACKBONE}{name}": value for name, value in trained.averaged.items()}
    return MLIPInferenceCheckpoint(
        model_config=OmegaConf.create(model),
        model_state_dict={_BACKBONE + name: value for name, value in trained.weights.items()},
        ema_state_dict={"n_averaged": torch.tensor(0), **average},
        tasks_config=OmegaConf.create([_task(trained, task_name, name) for name in names]),
    )


def model_config(trained: Trained, task_name: str) -> dict[str, Any]:
    """Return the configuration of a network's `SCNModel`, with a head for each task."""
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
    return model


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
