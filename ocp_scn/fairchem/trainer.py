"""fairchem's trainer, made to go on after an interruption as if there had been none."""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer
from torch.optim.lr_scheduler import LambdaLR


class SCNTrainer(OCPTrainer):
    """fairchem's trainer, whose resumed trainings have the loss curve of uninterrupted ones.

    The rolls of the edge frames are random in training, and a checkpoint of fairchem does not
    contain the generator's state; here torch is seeded anew for every training step (and rank).
    And a checkpoint is written between a step and the schedule's, so that a resumed training
    would lag behind by one step of the learning rate.
    """

    def _forward(self, batch: Any) -> dict[str, torch.Tensor]:
        if self.model.training:
            torch.manual_seed(step_seed(self.config["cmd"]["seed"] or 0, self.step, distutils.get_rank()))
        return super()._forward(batch)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Load a checkpoint as fairchem does, and bring the schedule up to its step."""
        super().load_checkpoint(*args, **kwargs)
        schedule = getattr(getattr(self, "scheduler", None), "scheduler", None)
        if isinstance(schedule, LambdaLR) and schedule.last_epoch == self.step - 1 >= 0:
            schedule.step()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed that differs between runs, steps and ranks."""
    return hash((seed, step, rank)) % 2**63  # of integers: the same in every process
