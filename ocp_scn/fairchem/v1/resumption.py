"""fairchem's trainer, made to go on after an interruption as if there had been none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.optim.lr_scheduler import LambdaLR

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import written_whole
from ocp_scn.fairchem.v1.guard import GuardedTrainer
from ocp_scn.fairchem.v1.interruption import interruption
from ocp_scn.signals import ending


class ResumableTrainer(GuardedTrainer):
    """fairchem's trainer, whose interrupted trainings end with the numbers of uninterrupted ones.

    fairchem writes ``checkpoint.pt`` in place, between a step and what belongs to it: the schedule's
    step, and the evaluation that may find the best weights so far. Its random numbers depend on those
    before the interruption. Here a checkpoint replaces the one before when it is whole, torch is
    seeded anew for each step (and rank), and a resumed training makes up for what its checkpoint lacks.
    """

    model: Any
    ema: Any
    step: int
    epoch: float
    best_val_metric: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._evaluation: tuple[int, Any] = (-1, None)  # the last one: step, metrics
        self._best_before: Any = None
        self._saved_step = -1
        self._trains = False
        super().__init__(*args, **kwargs)

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Train as fairchem does, from where the checkpoint, if there is one, left off.

        Raises:
            InputError: if nothing is left to train.
        """
        self._trains = True
        every = self.config["optim"].get("eval_every", len(self.train_loader))
        evaluates = self.step > 0 and self.step % every == 0 and self.val_loader is not None
        if not evaluates or self._evaluation[0] == self.step:
            self._check_epochs()
        self._forget_logged_steps()
        if evaluates:
            self._complete_evaluation(self.step // every, disable_eval_tqdm)
        super().train(disable_eval_tqdm)

    def _check_epochs(self) -> None:
        epoch, last = self.step // len(self.train_loader), self.config["optim"]["max_epochs"]
        if epoch >= last:
            raise InputError(
                f"nothing is left to train: the training is at epoch {epoch} (step {self.step}), and "
                f"optim.max_epochs={last}; raise it, or begin anew from best_checkpoint.pt, the weights alone"
            )

    def _complete_evaluation(self, number: int, disable_tqdm: bool) -> None:
        """Do what of the evaluation after the checkpoint's step, a training's ``number``th, is not done."""
        default = self.evaluator.task_primary_metric[self.name]
        primary = self.evaluation_metrics.get("primary_metric", default)
        step, metrics = self._evaluation
        if step != self.step:
            metrics = self.validate(split="val", disable_tqdm=disable_tqdm)
        # Where that is done already, the metric is no better than the best one.
        self.update_best(primary, metrics, disable_eval_tqdm=disable_tqdm)
        plateau = self.scheduler.scheduler_type == "ReduceLROnPlateau"
        if plateau and self.scheduler.scheduler.last_epoch < number:
            self.scheduler.step(metrics=metrics[primary]["metric"])

    def _forget_logged_steps(self) -> None:
        """Take back the logged steps that a killed run made after its last checkpoint."""
        writer = getattr(self.logger, "writer", None)  # TensorBoard's
        if writer is not None:
            start = SessionLog(status=SessionLog.START)
            writer.file_writer.add_event(Event(step=self.step + 1, session_log=start))

    def _forward(self, batch: Any) -> dict[str, torch.Tensor]:
        if distutils.is_master():
            interruption.answer()
        if ending.number is not None:
            self._end(ending.number)
        if self.model.training:
            torch.manual_seed(step_seed(self.config["cmd"]["seed"] or 0, self.step, distutils.get_rank()))
        return super()._forward(batch)

    def _compute_loss(self, out: Any, batch: Any) -> torch.Tensor:
        """Return the loss of all ranks' batches, with the gradient of this rank's.

        fairchem logs the first rank's share alone, which is another number than that of one rank
        with the whole batch.
        """
        loss = super()._compute_loss(out, batch)
        mean = distutils.all_reduce(loss.detach().clone(), average=True)
        return loss + (mean - loss.detach())

    def update_best(self, primary_metric: str, val_metrics: Any, disable_eval_tqdm: bool = True) -> None:
        """Keep the best weights; let the checkpoint of this step know of the evaluation."""
        self._evaluation = self.step, val_metrics
        self._best_before = self.best_val_metric
        super().update_best(primary_metric, val_metrics, disable_eval_tqdm)
        if self._saved_step == self.step:
            self.save()

    def save(
        self, metrics: Any = None, checkpoint_file: str = "checkpoint.pt", training_state: bool = True
    ) -> str | None:
        """Write a checkpoint in place of the one before, once it is whole; return its path.

        Raises:
            InputError: where it cannot be written.
        """
        if self.is_debug or not distutils.is_master():
            return None
        step, last_metrics = self._evaluation
        if metrics is None and step == self.step:
            metrics = last_metrics
        if training_state:
            self._saved_step = self.step
        writer = getattr(self.logger, "writer", None)
        if writer is not None:
            writer.flush()  # else the log would lack steps that the checkpoint has
        path = Path(self.config["cmd"]["checkpoint_dir"]) / checkpoint_file
        with written_whole(path) as part:
            super().save(metrics, part.name, training_state)
        return str(path)

    def _end(self, number: int) -> None:
        """End this rank by a signal; of a training the first one alone, which saves."""
        if not self._trains:
            ending.end(number, silent=not distutils.is_master())
        if distutils.is_master():
            self.save_between_steps()
            file, name = Path(self.config["cmd"]["checkpoint_dir"]) / "checkpoint.pt", self.timestamp_id
            ending.end(number, f"saved in {file}; the same command with --timestamp-id {name} goes on")

    def save_between_steps(self) -> None:
        """Save the training as its last whole step left it, from the beginning of a forward pass."""
        if not self.model.training:  # an evaluation, with averaged weights
            validated = self._evaluation[0] == self.step
            if validated:  # in the predictions that follow better metrics, and that have to be made again
                self.best_val_metric = self._best_before
            if validated or self._saved_step != self.step:
                if self.ema:
                    self.ema.restore()
                self.save()
            return
        step, epoch = self.step, self.epoch
        self.step, self.epoch = step - 1, epoch - 1 / len(self.train_loader)
        self.save()
        self.step, self.epoch = step, epoch

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: Any = None, inference_only: bool = False
    ) -> None:
        """Load a checkpoint, which SCNTrainer has read, and bring the schedule up to its step."""
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        if checkpoint.get("val_metrics"):
            self._evaluation = self.step, checkpoint["val_metrics"]
        schedule = getattr(getattr(self, "scheduler", None), "scheduler", None)
        if isinstance(schedule, LambdaLR) and schedule.last_epoch == self.step - 1 >= 0:
            schedule.step()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed that differs between runs, steps and ranks."""
    return hash((seed, step, rank)) % 2**63  # of integers: the same in every process
