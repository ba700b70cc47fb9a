"""The sections of a checkpoint of fairchem-core 1, checked before anything takes them for granted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from ocp_scn.errors import InputError


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(float(value))


def _are_tensors(values: Any) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    )


def _are_normalizers(values: Any) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(state, Mapping)
        and _is_finite(state.get("mean"))
        and _is_finite(state.get("rmsd", state.get("std")))
        and float(state.get("rmsd", state.get("std"))) > 0
        for state in values.values()
    )


def _are_references(values: Any) -> bool:
    return values is None or (
        isinstance(values, Mapping)
        and all(
            isinstance(state, Mapping) and isinstance(state.get("element_references"), Tensor)
            for state in values.values()
        )
    )


def _is_configuration(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    model = config.get("model", {"name": ""})
    if isinstance(model, str):  # as it was until 2023
        return isinstance(config.get("model_attributes", {}), Mapping)
    return isinstance(model, Mapping) and isinstance(model.get("name"), str)


def _is_average(average: Any) -> bool:
    if average is None:
        return True
    shadows = average.get("shadow_params") if isinstance(average, Mapping) else None
    return isinstance(shadows, list) and all(isinstance(value, Tensor) for value in shadows)


def _is_mapping(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


_SECTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "state_dict": (_are_tensors, "tensors by their names"),
    "config": (_is_configuration, "a configuration of a model with a name"),
    "normalizers": (_are_normalizers, "a mean and an rmsd above 0 of each target"),
    "elementrefs": (_are_references, "element references of each target"),
    "ema": (_is_average, "averaged weights (shadow_params)"),
    "optimizer": (_is_mapping, "a section"),
    "scheduler": (_is_mapping, "a section"),
    "val_metrics": (_is_mapping, "a section"),
    "amp": (_is_mapping, "a section"),
    "step": (lambda value: _is_number(value) and value >= 0, "a number of steps"),
    "epoch": (lambda value: _is_number(value) and value >= 0, "a number of epochs"),
}


def check_sections(checkpoint: Any, needed: Iterable[str] = ("state_dict",)) -> None:
    """Check that each section of a checkpoint is of the kind that it has to be.

    Raises:
        InputError: for a section of another kind, or one of ``needed`` that is not there.
    """
    if not isinstance(checkpoint, Mapping):
        raise InputError(
            f"it is a {type(checkpoint).__name__}; expected sections, {', '.join(needed)} among them"
        )
    missing = next((name for name in needed if name not in checkpoint), None)
    if missing is not None:
        raise InputError(f"it has no {missing!r}; it has {', '.join(map(str, checkpoint)) or 'nothing'}")
    for name, (is_fit, expected) in _SECTIONS.items():
        if name in checkpoint and not is_fit(checkpoint[name]):
            found = _in_short(checkpoint[name])
            raise InputError(f"its {name} is {found}; expected {expected}")


def check_configuration(config: Mapping[str, Any]) -> None:
    """Check the sections of a checkpoint's configuration that fairchem-core 1 builds a model from.

    Raises:
        InputError: for a section of another kind, or one that is not there.
    """
    losses = config.get("loss_functions") or config.get("loss_fns")  # the name in between
    metrics = config.get("evaluation_metrics", config.get("eval_metrics"))
    old, outputs = not losses, config.get("outputs")  # of before 2023: the task says what there is
    dataset, task = config.get("dataset"), config.get("task", {})
    for name, is_fit, expected in (
        ("model", "model" in config, "the settings of a model"),
        ("dataset", isinstance(dataset, Mapping) and "src" in dataset, "a section with src"),
        ("optim", isinstance(config.get("optim"), Mapping), "a section"),
        ("task", isinstance(task, Mapping) and (not old or _is_task(task.get("dataset"))), "a section"),
        ("slurm", isinstance(config.get("slurm", {}), Mapping), "a section"),
        ("loss_functions", old or isinstance(losses, list), "a list of losses"),
        ("outputs", old or _are_outputs(outputs), "a section of targets, each with its level"),
        ("evaluation_metrics", old or _are_metrics(metrics), "a section"),
    ):
        if not is_fit:
            raise InputError(f"its {name} is {_in_short(config.get(name))}; expected {expected}")


def _is_task(name: Any) -> bool:
    return isinstance(name, str) and ("lmdb" in name or name.startswith("ase_"))


def _are_outputs(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and all(
        isinstance(output, Mapping) and output.get("level") in ("system", "atom")
        for output in outputs.values()
    )


def _are_metrics(section: Any) -> bool:
    return isinstance(section, Mapping) and isinstance(section.get("metrics", {}), Mapping)


def _in_short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…, a {type(value).__name__}"
