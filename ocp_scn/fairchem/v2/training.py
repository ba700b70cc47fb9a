"""What a training needs beside fairchem-core 2's own: a schedule, and a guard that completes checkpoints."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.models.base import _get_dataset_to_tasks_map
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import LambdaLR
from torchtnt.framework.callback import Callback

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import written_whole
from ocp_scn.fairchem.training_data import elements_of, sizes_of, warn_of_mean
from ocp_scn.fairchem.v2.references import with_values


class TrainingGuard(Callback):
    """Refuse trainings that fail late, seed every step, and complete what checkpoints say of the model.

    Inference checkpoints get the values of element references, not the name of their file, and the
    elements of the training data.

    The rolls of the edge frames are random in training, and a checkpoint of fairchem does not contain
    the generator's state; seeded anew for every step, a resumed training has the loss curve of an
    uninterrupted one.

    Args:
        seed: of the run, ``${job.seed}``.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Check the training.

        Raises:
            InputError: for settings under which checkpoints are useless, or structures that fairchem
                would leave out for their size, or a checkpoint with nothing left to train.
        """
        if unit.ema_model is None:
            raise InputError("ema_decay is null; expected a number: fairchem predicts with averaged weights")
        unit.model.module.backbone.validate_tasks(_get_dataset_to_tasks_map(unit.tasks))
        _check_progress(unit.train_progress, state.train_state)
        if distutils.is_master():  # which writes inference checkpoints
            _complete_configuration(unit, state.train_state.dataloader.dataset.datasets)
        distutils.synchronize()  # every rank reads that configuration when it saves
        unit.model.module.backbone.known = None  # evaluations of a training mind no elements
        for phase in (state.train_state, state.eval_state):
            if phase is not None:
                _check_batches(phase.dataloader.batch_sampler)

    def on_train_step_start(self, state: Any, unit: Any) -> None:
        """Seed torch for this step and rank."""
        step = unit.train_progress.num_steps_completed
        torch.manual_seed(hash((self.seed, step, distutils.get_rank())) % 2**63)


def _check_progress(progress: Any, settings: Any) -> None:
    """Raise :class:`InputError` if a training has done what it is asked for before its first step."""
    for name, done, last in (
        ("max_epochs", progress.num_epochs_completed, settings.max_epochs),
        ("max_steps", progress.num_steps_completed, settings.max_steps),
    ):
        if last is not None and done >= last:
            raise InputError(
                f"nothing is left to train: the training is at epoch {progress.num_epochs_completed} (step "
                f"{progress.num_steps_completed}), and {name}={last}; raise it, or begin anew under another "
                "job.timestamp_id"
            )


def _complete_configuration(unit: Any, data_sets: Sequence[Any]) -> None:
    """Write values of references and the trained elements into the configuration that checkpoints get."""
    for task in unit.tasks:
        if task.property == "energy" and task.element_references is None:
            sizes = [size for data_set in data_sets for size in sizes_of(data_set)]
            warn_of_mean(float(task.normalizer.mean), (min(sizes), max(sizes)))
    path = Path(unit.job_config.metadata.config_path)
    config: Any = with_values(OmegaConf.to_container(OmegaConf.load(path)))
    fine_tuned = unit.get_finetune_model_config()
    known, found = unit.model.module.backbone.known, [elements_of(data_set) for data_set in data_sets]
    parts = [elements for elements in found if elements is not None]
    if len(parts) == len(found) and (known is not None or fine_tuned is None):
        elements = sorted(set().union(*parts, known.numbers if known else ()))
        for model in (config["runner"]["train_eval_unit"]["model"], fine_tuned):
            if model is not None and "backbone" in model:
                model["backbone"]["trained_elements"] = elements
    with written_whole(path) as part:
        OmegaConf.save(OmegaConf.create(config), part)


def _check_batches(sampler: Any) -> None:
    """Raise :class:`InputError` if a sampler that counts atoms leaves structures out."""
    batches = getattr(sampler, "all_batches", None)
    if batches is None:
        return
    left_out = len(sampler.dataset) - sum(len(batch) for batch in batches)
    if left_out:
        raise InputError(
            f"{left_out} of {len(sampler.dataset)} structures have more than max_atoms={sampler.max_atoms} "
            "atoms; raise it, or leave them out on purpose with max_atoms of the data set"
        )


def step_schedule(
    optimizer: torch.optim.Optimizer,
    n_iters_per_epoch: int,
    *,
    milestones: Sequence[int],
    gamma: float,
    warmup_steps: int,
    warmup_factor: float,
) -> LambdaLR:
    """Return the schedule of fairchem-core 1: a linear warm-up, then steps down.

    Args:
        optimizer: its learning rate is that between warm-up and first milestone.
        n_iters_per_epoch: not used; fairchem passes it to every schedule.
        milestones: steps, in order, from which the rate is multiplied by another ``gamma``.
        gamma: factor of a milestone.
        warmup_steps: length of the warm-up.
        warmup_factor: factor of the first step.
    """

    def factor(step: int) -> float:
        if step <= warmup_steps:
            done = step / max(1, warmup_steps)
            return warmup_factor * (1 - done) + done
        return gamma ** bisect(list(milestones), step)

    return LambdaLR(optimizer, factor)
