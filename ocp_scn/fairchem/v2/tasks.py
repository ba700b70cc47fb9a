"""The tasks of fairchem-core 2: which property a model predicts, how it is normalised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from fairchem.core.modules.normalization.normalizer import Normalizer
from fairchem.core.units.mlip_unit.mlip_unit import OutputSpec, Task

from ocp_scn.errors import InputError
from ocp_scn.fairchem.scales import DERIVATIVES, check_derivative, number, positive, scale_of


def float_normalizer(mean: float = 0.0, rmsd: float = 1.0) -> Normalizer:
    """Return fairchem's normalizer, which fails for numbers that are not written as floats, such as ``0``.

    Raises:
        InputError: for what is no number, or an ``rmsd`` that is not above 0.
    """
    return Normalizer(mean=number("normalizer.mean", mean), rmsd=positive("normalizer.rmsd", rmsd))


def check_tasks(dataset_to_tasks: Mapping[str, Iterable[Any]], *, direct_forces: bool) -> None:
    """Raise `InputError` for tasks that would give wrong numbers without a word."""
    for tasks in dataset_to_tasks.values():
        by_property = {task.property: task for task in tasks}
        unknown = sorted(set(by_property) - {"energy", *DERIVATIVES})
        if unknown:
            raise InputError(f"task {by_property[unknown[0]].name!r}: SCN predicts no {unknown[0]}")
        if direct_forces or "energy" not in by_property:
            continue
        energy = scale_of(by_property["energy"].normalizer)
        for name in set(by_property) & set(DERIVATIVES):
            task = by_property[name]
            check_derivative(f"task {task.name!r}", scale_of(task.normalizer), energy)


def derivative_normalizer(energy: Any) -> Normalizer:
    """Return the normalizer of a derivative: that of the energy without its mean, in its precision."""
    return Normalizer(mean=torch.zeros_like(energy.rmsd), rmsd=energy.rmsd.clone())


def stress_tasks(tasks: Mapping[str, Any], settings: Any) -> list[Task]:
    """Return a task for the stress of each data set that has an energy and no stress yet."""
    have = {name for task in tasks.values() if task.property == "stress" for name in task.datasets}
    have |= set(settings.predict_untrained_stress)
    return [
        Task(
            name="stress" if task.name == "energy" else f"{dataset}_stress",
            level="system",
            property="stress",
            out_spec=OutputSpec(dim=[1, 9], dtype=settings.base_precision_dtype),
            normalizer=derivative_normalizer(task.normalizer),
            datasets=[dataset],
            inference_only=True,
        )
        for task in tasks.values()
        if task.property == "energy"
        for dataset in task.datasets
        if dataset not in have
    ]
