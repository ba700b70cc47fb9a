"""What a training needs beside fairchem-core 2's own: a schedule, and a guard that completes checkpoints."""

from __future__ import annotations

import logging
import math
from bisect import bisect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.components.train.train_runner import get_most_recent_viable_checkpoint_path
from fairchem.core.launchers.api import SchedulerType
from fairchem.core.models.base import _get_dataset_to_tasks_map
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import LambdaLR
from torchtnt.framework.callback import Callback

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import written_whole
from ocp_scn.fairchem.finite import check_finite_weights
from ocp_scn.fairchem.memory import is_out_of_memory, out_of_memory
from ocp_scn.fairchem.ranks import leave_the_first_word, lost_rank
from ocp_scn.fairchem.stop import stop_training
from ocp_scn.fairchem.training_data import elements_of, sizes_of, warn_of_mean, warn_of_new_elements
from ocp_scn.fairchem.v2.finetuning import scales_in_use, with_values
from ocp_scn.fairchem.v2.losses import LabelledLoss
from ocp_scn.fairchem.v2.runner import nothing_compared, refuse
from ocp_scn.signals import ending

log = logging.getLogger(__name__)


class TrainingGuard(Callback):
    """Refuse trainings that fail late, end those that fail, and complete what checkpoints say of the model.

    A gradient that is not finite ends a training after its step, and such weights are not saved. SIGTERM and
    SIGINT save a checkpoint between two steps. Refusals end the process with one line and status 2.

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
        self._batch: Any = None  # that is computed
        self._folder = ""  # of checkpoints
        self._group: Any = None  # in which ranks agree on the host that they end

    def set_runner_callbacks(self, save: Callable[[str], Any], load: Any, folder: str) -> None:
        """Take from the runner how it saves a checkpoint, and the folder of checkpoints."""
        self._save, self._folder = save, folder

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Check the training.

        Raises:
            InputError: for settings under which checkpoints are useless, a readout that no task trains,
                structures that fairchem would leave out for their size, or a checkpoint with nothing left to
                train.
        """
        if unit.ema_model is None:
            raise InputError("ema_decay is null; expected a number: fairchem predicts with averaged weights")
        unit.model.module.backbone.validate_tasks(_get_dataset_to_tasks_map(unit.tasks))
        _check_losses(unit)
        _check_progress(unit.train_progress, state.train_state)
        if distutils.is_master():  # which writes inference checkpoints
            if unit.train_progress.num_steps_completed == 0:
                _log_beginning(unit.job_config.metadata.config_path)
            _complete_configuration(unit, state.train_state.dataloader.dataset.datasets)
        distutils.synchronize()  # every rank reads that configuration when it saves
        unit.model.module.backbone.known = None  # evaluations of a training mind no elements
        for phase in (state.train_state, state.eval_state):
            if phase is not None:
                _check_batches(phase.dataloader.batch_sampler)
        self._watch(unit)

    def _watch(self, unit: Any) -> None:
        """Have the norm of each gradient, the batches, and the weights of each checkpoint looked at."""
        for task in unit.tasks:
            task.loss_fn = LabelledLoss(task.loss_fn)
        if unit.clip_grad_norm is None:
            unit.clip_grad_norm = math.inf  # fairchem then computes the norm, and clips nothing
        for model in (unit.model, unit.ema_model):
            # fairchem calls the wrapper's forward by itself, past hooks.
            model.module.register_forward_pre_hook(self._note_batch)
        save = unit.save_state

        def save_finite(location: str) -> None:
            for model in (unit.model, unit.ema_model):
                check_finite_weights(
                    f"{location} is not saved, {self._last_checkpoint()}: the model", model.state_dict()
                )
            save(location)

        unit.save_state = save_finite
        if unit.job_config.scheduler.mode == SchedulerType.LOCAL:  # submitit has the signals of a job
            ending.watch("nothing is saved")
            if distutils.get_world_size() > 1:
                self._group = torch.distributed.new_group(backend="gloo")

    def _note_batch(self, model: Any, inputs: tuple[Any, ...]) -> None:
        self._batch = inputs[0]

    def _last_checkpoint(self) -> str:
        path = get_most_recent_viable_checkpoint_path(self._folder) if Path(self._folder).is_dir() else None
        return f"the last checkpoint is {path}" if path else "this run has no checkpoint yet"

    def on_train_step_end(self, state: Any, unit: Any) -> None:
        """End the training if the gradient of this step was not finite.

        The device is idle: fairchem has just waited for the number of atoms.
        """
        if not math.isfinite(float(unit.last_grad_norm)):
            step = unit.train_progress.num_steps_completed - 1  # as fairchem logs it
            stop_training("loss or its gradient", step, self._batch, self._last_checkpoint())

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:
        """End the process with one line and status 2 where the user can mend what was wrong."""
        if is_out_of_memory(exc):
            exc = out_of_memory(exc, unit.model, self._batch, "max_atoms")
        if isinstance(exc, ZeroDivisionError):
            exc = nothing_compared(unit.eval_unit) or exc
        lost = lost_rank(exc)
        if lost is not None:
            leave_the_first_word()
            exc = InputError(f"rank {distutils.get_rank()} lost another rank, which has ended: {lost}")
        if isinstance(exc, InputError):
            refuse(exc)

    def _end_by_signal(self, step: int) -> None:
        number = torch.tensor(ending.number or 0)
        if self._group is not None:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        if number:
            location = Path(self._folder) / f"step_{step}"
            self._save(str(location))
            what = f"saved in {location}; ocp-scn train --config {location / 'resume.yaml'} goes on"
            ending.end(int(number), what, silent=not distutils.is_master())

    def on_train_step_start(self, state: Any, unit: Any) -> None:
        """End by a signal that has come; seed torch for this step and rank."""
        step = unit.train_progress.num_steps_completed
        self._end_by_signal(step)
        torch.manual_seed(hash((self.seed, step, distutils.get_rank())) % 2**63)


def _check_progress(progress: Any, settings: Any) -> None:
    """Raise `InputError` if a training has done what it is asked for before its first step."""
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


def _log_beginning(path: str) -> None:
    """Log what a training takes of the checkpoint that it begins with, if it does."""
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    for line in scales_in_use(config["runner"]["train_eval_unit"]):
        log.info(line)


def _check_losses(unit: Any) -> None:
    """Raise `InputError` for a readout without a loss, whose weights DistributedDataParallel would miss."""
    name = unit.model.module.backbone.config.untrained([task.property for task in unit.tasks])
    if name is not None:
        raise InputError(
            f"tasks has none of {name}, for which the model has weights of its own; add one, with "
            "coefficient: 0 if it is not to be trained"
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
        before = known.numbers if known else set()
        warn_of_new_elements(set().union(*parts), before)
        elements = sorted(set().union(*parts, before))
        for model in (config["runner"]["train_eval_unit"]["model"], fine_tuned):
            if model is not None and "backbone" in model:
                model["backbone"]["trained_elements"] = elements
    with written_whole(path) as part:
        OmegaConf.save(OmegaConf.create(config), part)


def _check_batches(sampler: Any) -> None:
    """Raise `InputError` if a sampler that counts atoms leaves structures out."""
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
