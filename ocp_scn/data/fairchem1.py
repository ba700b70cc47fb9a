"""The sections of a configuration of fairchem-core 1.10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ocp_scn.data.recipe import Recipe
from ocp_scn.data.splits import TRAIN

_METRICS = {"energy": ["mae"], "forces": ["mae", "cosine_similarity"]}
_OUTPUTS = {
    "energy": {"shape": 1, "level": "system"},
    "forces": {"irrep_dim": 1, "level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True},
}
_LOSSES = {"energy": "mae", "forces": "l2mae"}


def sections(recipe: Recipe, target: Path, references: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the sections of a configuration, each with a comment.

    Args:
        recipe: the training.
        target: folder of the data set.
        references: file of element references, if there are any.
    """
    labels, size = recipe.labels, recipe.size
    coefficients = dict(zip(("energy", "forces"), size.coefficients, strict=True))
    metrics: dict[str, list[str]] = {label: _METRICS[label] for label in labels}
    metrics["misc"] = ["energy_forces_within_threshold"]
    if "forces" not in labels:
        metrics = {"energy": ["mae", "energy_within_threshold"]}
    return [
        ("", {"trainer": "ocp", "logger": "tensorboard"}),
        (_of_data(recipe, references), {"dataset": _data_sets(recipe, target, references)}),
        ("", {"outputs": {label: _OUTPUTS[label] for label in labels}}),
        (
            "The losses are of normalised energies and forces, whose errors are then about equally large.",
            {
                "loss_functions": [
                    {label: {"fn": _LOSSES[label], "coefficient": coefficients[label]}} for label in labels
                ]
            },
        ),
        ("", {"evaluation_metrics": {"metrics": metrics, "primary_metric": f"{labels[-1]}_mae"}}),
        (_OF_TASK if "forces" in labels else "", {"task": _task(labels)}),
        (_OF_MODEL, {"model": {"name": "ocp_scn", "otf_graph": True, **recipe.model}}),
        (_of_optimizer(recipe), {"optim": _optimizer(recipe)}),
    ]


_OF_MODEL = (
    "Distances are in Å. ocp-scn data stats counts neighbours within a cutoff. Forces have a "
    "readout of their own; direct_forces: False makes them derivatives of the energy (docs/configs.md)."
)
_OF_TASK = "For --mode run-relaxations: the largest number of steps, and fmax in eV/Å."


def _of_data(recipe: Recipe, references: str | None) -> str:
    lines = ["Labels are learned as (label - mean) / stdev; the unit is eV, or eV/Å."]
    if references is not None:
        lines.append("Element references are subtracted from the energies first.")
    if recipe.val is None:
        lines.append("There is no validation set: checkpoint.pt has the last weights, and none are the best.")
    return "\n".join(lines)


def _of_optimizer(recipe: Recipe) -> str:
    schedule = recipe.schedule(recipe.batch_size)
    return (
        f"A batch has about {recipe.batch_size * recipe.atoms / recipe.frames:.0f} atoms, an epoch "
        f"{schedule.steps_of_epoch:,} steps, and the training {schedule.steps:,}. The learning rate falls "
        "after the steps lr_milestones. Larger batches and more processes make fewer steps, and need other "
        "milestones."
    )


def _data_sets(recipe: Recipe, target: Path, references: str | None) -> dict[str, Any]:
    normalizer = {"energy": {"mean": recipe.energy_mean, "stdev": recipe.energy_stdev}}
    if "forces" in recipe.labels:
        normalizer["forces"] = {"mean": 0.0, "stdev": recipe.forces_stdev}
    transforms: dict[str, Any] = {"normalizer": normalizer}
    if references is not None:
        transforms["element_references"] = {"energy": {"file": references}}
    others = {"val": recipe.val, "test": recipe.test}
    return {
        "train": {"format": "lmdb", "src": str(target / TRAIN), "transforms": transforms},
        **{name: {"src": str(target / split)} for name, split in others.items() if split is not None},
    }


def _task(labels: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"prediction_dtype": "float32"}
    if "forces" in labels:
        found |= {"relaxation_steps": 300, "relaxation_fmax": 0.05}
        found["relax_opt"] = {"maxstep": 0.04, "memory": 50, "damping": 1.0, "alpha": 70.0}
    return found


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    size, schedule = recipe.size, recipe.schedule(recipe.batch_size)
    every = {"eval_every": schedule.evaluate_every}
    return {
        "batch_size": recipe.batch_size,
        "eval_batch_size": 2 * recipe.batch_size,
        "num_workers": size.num_workers,
        "optimizer": "AdamW",
        "optimizer_params": {"amsgrad": True},
        "lr_initial": size.lr,
        "lr_gamma": schedule.gamma,
        "lr_milestones": schedule.milestones,
        "warmup_steps": size.warmup_steps,
        "warmup_factor": 0.2,
        "max_epochs": schedule.epochs,
        **(every if schedule.evaluate_every < schedule.steps_of_epoch else {}),
        "ema_decay": size.ema_decay,
        "clip_grad_norm": 100,
    }
