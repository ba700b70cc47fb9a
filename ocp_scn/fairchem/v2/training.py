"""What a training needs beside fairchem-core 2's own: a schedule, and a guard."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.models.base import _get_dataset_to_tasks_map
from torch.optim.lr_scheduler import LambdaLR
from torchtnt.framework.callback import Callback

from ocp_scn.errors import InputError


class TrainingGuard(Callback):
    """Refuse trainings that fail late, and seed every step.

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
