"""Trainings that begin with the weights of a checkpoint: what configurations with ``finetune`` name.

fairchem's ``initialize_finetuning_model`` takes the last weights of a checkpoint. Here it is the averaged
ones, which predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import hydra
from fairchem.core.modules.normalization.element_references import ElementReferences
from fairchem.core.modules.normalization.normalizer import Normalizer
from omegaconf import OmegaConf

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.inference_checkpoints import from_fairchem2
from ocp_scn.fairchem.v2.checkpoint import check_line, model_config
from ocp_scn.fairchem.v2.references import element_references, references_of, task_config
from ocp_scn.fairchem.v2.tasks import float_normalizer
from ocp_scn.trained import Trained, check_settings, copy_weights, without_forces

_HERE = "ocp_scn.fairchem.v2"
_MODEL, _NORMALIZER = f"{_HERE}.finetuned_model", f"{_HERE}.finetuned_normalizer"
_FILE, _REFERENCES = f"{_HERE}.element_references", f"{_HERE}.finetuned_references"
# Settings of the backbone beside the network's.
_OF_BACKBONE = {"radius_pbc_version"}


def finetuned_model(
    checkpoint: str, task_name: str = "oc20", backbone: Mapping[str, Any] | None = None
) -> Any:
    """Return the model of an inference checkpoint with its averaged weights, to be trained.

    Args:
        checkpoint: the file.
        task_name: data set of the training's tasks, TASK_NAME_energy and so on.
        backbone: settings that are not those of the checkpoint, such as ``compute_dtype``. With
            ``regress_forces=False`` the model of a checkpoint with forces predicts its energy alone.

    Raises:
        InputError: for a file that is no such checkpoint, or settings by which its weights would mean
            something else.
    """
    trained, changes = _read(checkpoint), dict(backbone or {})
    if changes.get("regress_forces") is False:
        trained = replace(trained, settings=without_forces(trained.settings))
    config = model_config(trained, task_name)
    own = {key: value for key, value in changes.items() if key not in _OF_BACKBONE}
    wanted = SCNConfig.from_settings({**trained.settings, **own})
    check_settings(trained.config, wanted, f"finetune={checkpoint}")
    config["backbone"] |= changes
    model = hydra.utils.instantiate(config)
    copy_weights(model.backbone, trained.averaged)
    model.finetune_model_full_config = OmegaConf.create(config)  # fairchem's name: checkpoints get it
    return model


def finetuned_normalizer(
    checkpoint: str,
    name: str,
    mean: float | None = None,
    rmsd: float | None = None,
    references: str | None = None,
) -> Normalizer:
    """Return the normalizer of a property, with those numbers of a checkpoint that are not given.

    Args:
        checkpoint: the file.
        name: ``energy`` or ``forces``.
        mean: in the unit of the property.
        rmsd: in the unit of the property.
        references: file of element references. With them and none in the checkpoint, its mean is left out.

    Raises:
        InputError: as `finetuned_model` does, and for numbers that are none.
    """
    return float_normalizer(**_scale(checkpoint, name, mean, rmsd, references))


def finetuned_references(checkpoint: str, file: str | None = None) -> ElementReferences | None:
    """Return the element references of a file, or else those of a checkpoint; None if it has none.

    Raises:
        InputError: as `finetuned_model` does, and for a file that cannot be read.
    """
    return element_references(file) if file is not None else references_of(_scales(checkpoint)[1])


def with_values(config: Any) -> Any:
    """Return a plain configuration in which numbers stand for what files and checkpoints have."""
    if isinstance(config, list):
        return [with_values(item) for item in config]
    if not isinstance(config, dict):
        return config
    target, values = config.get("_target_"), {key: config[key] for key in config if key != "_target_"}
    if target == _NORMALIZER:
        return {"_target_": f"{_HERE}.float_normalizer", **_scale(**values)}
    if target not in (_FILE, _REFERENCES):
        return {key: with_values(value) for key, value in config.items()}
    found = element_references(**values) if target == _FILE else finetuned_references(**values)
    return None if found is None else task_config(found.element_references)


def scales_in_use(unit: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a training with this ``train_eval_unit`` takes of a checkpoint, and what is its own."""
    if unit["model"].get("_target_") != _MODEL:
        return
    yield f"The training begins with the weights of {unit['model']['checkpoint']}"
    for task in unit["tasks"]:
        section = dict(task.get("normalizer") or {})
        if section.pop("_target_", None) == _NORMALIZER:
            parts = [
                f"{key} {value:.7g} of the {'checkpoint' if section.get(key) is None else 'configuration'}"
                for key, value in _scale(**section).items()
            ]
            yield f"Normalization in use for task {task['name']}: {', '.join(parts)}"
        section = dict(task.get("element_references") or {})
        if section.pop("_target_", None) == _REFERENCES:
            whose = "the checkpoint, if it has some" if section.get("file") is None else section["file"]
            yield f"Element references in use for task {task['name']} are those of {whose}"


def begin_with(checkpoint: str) -> str:
    """Return the override with which a configuration that has the key ``finetune`` begins with a checkpoint.

    Raises:
        InputError: for a file that is no inference checkpoint.
    """
    _read(checkpoint)
    quoted = checkpoint.replace("\\", "\\\\").replace("'", "\\'")
    return f"finetune='{quoted}'"


def _scale(
    checkpoint: str,
    name: str,
    mean: float | None = None,
    rmsd: float | None = None,
    references: str | None = None,
) -> dict[str, float]:
    normalizers, own_references = _scales(checkpoint)
    of_checkpoint = normalizers.get(name, (0.0, 1.0))
    if references is not None and own_references is None:
        of_checkpoint = 0.0, of_checkpoint[1]
    return {
        "mean": of_checkpoint[0] if mean is None else mean,
        "rmsd": of_checkpoint[1] if rmsd is None else rmsd,
    }


def _read(checkpoint: str) -> Trained:
    loaded = check_line(checkpoint)
    try:
        return from_fairchem2(loaded)
    except InputError as error:
        raise InputError(f"finetune={checkpoint}: {error}") from error


@lru_cache(maxsize=1)
def _scales(checkpoint: str) -> tuple[dict[str, tuple[float, float]], list[float] | None]:
    """Return normalizers and references of a checkpoint, which several tasks of a training ask for."""
    trained = _read(checkpoint)
    return trained.normalizers, trained.references
