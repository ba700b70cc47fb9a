"""The sections of a configuration of fairchem-core 2, which composes and instantiates them by Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ocp_scn.data.recipe import Recipe
from ocp_scn.data.splits import TRAIN

_NAME = "oc20"  # of the data set, for FAIRChemCalculator(…, task_name="oc20") and converted checkpoints
_FAIRCHEM = "fairchem.core"
_MLIP = f"{_FAIRCHEM}.units.mlip_unit.mlip_unit"
_LOSS = f"{_FAIRCHEM}.modules.loss"
_HEADS = {"energy": "EnergyHead", "forces": "ForceHead"}
_EVALUATE_EVERY = 100  # steps, at least: an evaluation writes a checkpoint


def sections(
    recipe: Recipe, target: Path, references: str | None, *, cpu: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return the sections of a configuration, each with a comment.

    Args:
        recipe: the training.
        target: folder of the data set.
        references: file of element references, if there are any.
        cpu: train on processors.
    """
    job = {
        "device_type": "CPU" if cpu else "CUDA",
        "run_dir": f"runs/{target.name}",
        "seed": 0,
        "scheduler": {"mode": "LOCAL", "ranks_per_node": 1},
    }
    backbone = {"model": "ocp_scn.fairchem.v2.SCNBackbone", **recipe.model}
    heads = {_task_name(label): {"module": f"ocp_scn.fairchem.v2.{_HEADS[label]}"} for label in recipe.labels}
    model = {"_target_": "ocp_scn.fairchem.v2.SCNModel", "backbone": backbone, "heads": heads}
    return [
        ("", {"job": job}),
        (_of_data(recipe), _data(recipe, target)),
        (_OF_SCALES, _scales(recipe, references)),
        (_of_optimizer(recipe), _optimizer(recipe)),
        (
            "Distances are in Å. ocp-scn data stats counts neighbours within a cutoff.",
            {"model": model},
        ),
        (
            "The rest passes the keys above to fairchem.",
            {
                "dataset": _data_set(recipe, TRAIN, "${train_src}"),
                "val_dataset": _data_set(recipe, "val", "${val_src}"),
                "tasks": [_TASKS[label]() for label in recipe.labels],
                "runner": _runner(),
            },
        ),
    ]


_OF_SCALES = (
    "Labels are learned as (label - mean) / rmsd, in eV or eV/Å. If there is a file of element references, "
    "they are subtracted from the energies first."
)


def _of_data(recipe: Recipe) -> str:
    text = "A batch has at most max_atoms atoms of whole structures; the largest structure has to fit."
    if recipe.val is None:
        text += "\nThere is no validation set: the training set is evaluated, so the errors are too small."
    return text


def _of_optimizer(recipe: Recipe) -> str:
    schedule = recipe.schedule(recipe.frames_of_max_atoms)
    return (
        f"An epoch has about {schedule.steps_of_epoch:,} steps. Larger max_atoms and more processes make "
        "fewer steps, and need other max_steps and milestones, after which the learning rate falls."
    )


def _task_name(label: str) -> str:
    return f"{_NAME}_{label}"


def _data(recipe: Recipe, target: Path) -> dict[str, Any]:
    return {
        "train_src": str(target / TRAIN),
        "val_src": str(target / (recipe.val or TRAIN)),
        "max_atoms": recipe.max_atoms,
        "num_workers": recipe.size.num_workers,
    }


def _scales(recipe: Recipe, references: str | None) -> dict[str, Any]:
    forces = "forces" in recipe.labels
    return {
        "energy_mean": recipe.energy_mean,
        "energy_rmsd": recipe.energy_stdev,
        "energy_references": references,
        **({"forces_rmsd": recipe.forces_stdev} if forces else {}),
        "energy_coefficient": recipe.size.coefficients[0],
        **({"forces_coefficient": recipe.size.coefficients[1]} if forces else {}),
    }


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    size, schedule = recipe.size, recipe.schedule(recipe.frames_of_max_atoms)
    return {
        "max_steps": schedule.steps,
        "evaluate_every_n_steps": max(_EVALUATE_EVERY, schedule.evaluate_every),
        "print_every": 50,
        "lr": size.lr,
        "milestones": schedule.milestones,
        "gamma": schedule.gamma,
        "warmup_steps": size.warmup_steps,
        "ema_decay": size.ema_decay,
    }


def _data_set(recipe: Recipe, split: str, source: str) -> dict[str, Any]:
    return {
        _NAME: {
            "format": "ocp_scn.fairchem.v2.AseDatabase",
            "splits": {split: {"src": source}},
            "key_mapping": {label: _task_name(label) for label in recipe.labels},
            "transforms": {"common_transform": {"dataset_name": _NAME}},
        }
    }


def _energy_task() -> dict[str, Any]:
    references = {"_target_": "ocp_scn.fairchem.v2.element_references", "file": "${energy_references}"}
    return {
        **_task("energy", "system", 1, "MAELoss"),
        "element_references": references,
        "metrics": ["mae"],
    }


def _forces_task() -> dict[str, Any]:
    return {
        **_task("forces", "atom", 3, "L2NormLoss"),
        "train_on_free_atoms": True,
        "eval_on_free_atoms": True,
        "metrics": ["mae", "cosine_similarity", "magnitude_error"],
    }


_TASKS = {"energy": _energy_task, "forces": _forces_task}


def _task(label: str, level: str, size: int, loss: str) -> dict[str, Any]:
    return {
        "_target_": f"{_MLIP}.Task",
        "name": _task_name(label),
        "level": level,
        "property": label,
        "datasets": [_NAME],
        "out_spec": {"dim": [size], "dtype": "float32"},
        "normalizer": {
            "_target_": "ocp_scn.fairchem.v2.float_normalizer",
            "mean": "${energy_mean}" if label == "energy" else 0.0,
            "rmsd": f"${{{label}_rmsd}}",
        },
        "loss_fn": {
            "_target_": f"{_LOSS}.DDPMTLoss",
            "loss_fn": {"_target_": f"{_LOSS}.{loss}"},
            "coefficient": f"${{{label}_coefficient}}",
        },
    }


def _loader(data_set: str, *, shuffle: bool) -> dict[str, Any]:
    sampling = {"sampling": {"type": "temperature", "temperature": 1.0}}
    return {
        "_target_": f"{_FAIRCHEM}.components.common.dataloader_builder.get_dataloader",
        "dataset": {
            "_target_": f"{_FAIRCHEM}.datasets.mt_concat_dataset.create_concat_dataset",
            "dataset_configs": f"${{{data_set}}}",
            "combined_dataset_config": sampling,
        },
        "batch_sampler_fn": {
            "_target_": f"{_FAIRCHEM}.datasets.samplers.max_atom_distributed_sampler."
            "MaxAtomDistributedBatchSampler",
            "_partial_": True,
            "max_atoms": "${max_atoms}",
            "shuffle": shuffle,
            "seed": 0,
        },
        "num_workers": "${num_workers}",
        "collate_fn": {"_target_": f"{_MLIP}.mt_collater_adapter", "tasks": "${tasks}"},
    }


def _runner() -> dict[str, Any]:
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": "${lr}", "amsgrad": True}
    schedule = {
        "_target_": "ocp_scn.fairchem.v2.step_schedule",
        "_partial_": True,
        "milestones": "${milestones}",
        "gamma": "${gamma}",
        "warmup_steps": "${warmup_steps}",
        "warmup_factor": 0.2,
    }
    checkpoints = {
        "_target_": f"{_FAIRCHEM}.components.callbacks.TrainCheckpointCallback",
        "checkpoint_every_n_steps": "${evaluate_every_n_steps}",
        "max_saved_checkpoints": 3,
    }
    return {
        "_target_": f"{_FAIRCHEM}.components.train.train_runner.TrainEvalRunner",
        "max_epochs": None,
        "max_steps": "${max_steps}",
        "evaluate_every_n_steps": "${evaluate_every_n_steps}",
        "max_eval_steps_per_epoch": None,
        "train_dataloader": _loader("dataset", shuffle=True),
        "eval_dataloader": _loader("val_dataset", shuffle=False),
        "train_eval_unit": {
            "_target_": f"{_MLIP}.MLIPTrainEvalUnit",
            "job_config": "${job}",
            "tasks": "${tasks}",
            "model": "${model}",
            "optimizer_fn": optimizer,
            "cosine_lr_scheduler_fn": schedule,  # fairchem's name for any schedule
            "ema_decay": "${ema_decay}",
            "clip_grad_norm": 100,
            "print_every": "${print_every}",
        },
        "callbacks": [
            {"_target_": "ocp_scn.fairchem.v2.TrainingGuard", "seed": "${job.seed}"},
            {"_target_": "ocp_scn.fairchem.v2.LossLog"},
            checkpoints,
        ],
    }
