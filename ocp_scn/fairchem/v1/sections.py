"""The sections of a configuration: that they are sections of known keys, before anything reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairchem.core.modules import transforms as fairchem_transforms

from ocp_scn.errors import InputError, shown
from ocp_scn.fairchem.v1.keys import check_keys, metric_names, section

_STANDARDIZING = ("normalizer", "element_references")  # transforms that the trainer reads


def check_sections(config: Mapping[str, Any]) -> None:
    """Check that sections, sources and names of a configuration have the types that belong there.

    Raises:
        InputError: for the first one that has not, or a key that nothing reads.
    """
    for name in ("optim", "task", "outputs", "evaluation_metrics"):
        section(name, config.get(name))
    _check_primary_metric(config)
    milestones = section("optim", config.get("optim")).get("lr_milestones", [])
    if not isinstance(milestones, list) or not all(isinstance(step, int | float) for step in milestones):
        raise InputError(f"optim.lr_milestones={shown(milestones)}; expected a list of steps")
    losses = config.get("loss_functions") or []
    if not isinstance(losses, list):
        raise InputError(f"loss_functions={shown(losses)}; expected a list of sections")
    for loss in losses:
        for target, settings in section("loss_functions", loss).items():
            section(f"loss_functions.{target}", settings)
    data = config.get("dataset")
    splits = enumerate(data) if isinstance(data, list) else section("dataset", data).items()
    for split, settings in splits:
        _check_split(f"dataset.{split}", section(f"dataset.{split}", settings))
    check_keys(config)


def _check_primary_metric(config: Mapping[str, Any]) -> None:
    """Check that a training with validation data can tell its best checkpoint, after its first epoch."""
    data = config.get("dataset")
    if config.get("mode") != "train" or not (isinstance(data, Mapping) and data.get("val")):
        return
    evaluation = section("evaluation_metrics", config.get("evaluation_metrics"))
    primary = evaluation.get("primary_metric")
    metrics = section("evaluation_metrics.metrics", evaluation.get("metrics"))
    if not isinstance(primary, str) or (metrics and primary not in metric_names(metrics)):
        raise InputError(
            f"evaluation_metrics.primary_metric={shown(primary)}; expected the metric by which the best "
            "checkpoint is chosen, such as forces_mae"
        )


def _check_split(name: str, settings: Mapping[str, Any]) -> None:
    source, kind = settings.get("src") or "", settings.get("format", "lmdb")
    if not all(isinstance(part, str) for part in (source if isinstance(source, list) else [source])):
        raise InputError(f"{name}.src={shown(source)}; expected a path or a list of paths")
    if not isinstance(kind, str):
        raise InputError(f"{name}.format={shown(kind)}; expected a name, such as 'lmdb'")
    transforms = section(f"{name}.transforms", settings.get("transforms"))
    for key, value in transforms.items():
        if key in _STANDARDIZING:
            for target, values in section(f"{name}.transforms.{key}", value).items():
                if target != "file":
                    section(f"{name}.transforms.{key}.{target}", values)
        elif not callable(getattr(fairchem_transforms, str(key), None)):  # where fairchem looks for it
            raise InputError(f"{name}.transforms has {key!r}; expected {' or '.join(_STANDARDIZING)}")
