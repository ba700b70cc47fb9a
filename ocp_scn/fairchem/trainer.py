"""fairchem's trainer with random numbers that do not depend on where a training was interrupted."""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer


class SCNTrainer(OCPTrainer):
    """fairchem's trainer, seeding torch's generator anew for every training step.

    The rolls of the edge frames are random in training, and a checkpoint of fairchem does not
    contain the generator's state. With a seed for each step (and rank) a resumed training draws
    what an uninterrupted one would have drawn, so their loss curves are the same.
    """

    def _forward(self, batch: Any) -> dict[str, torch.Tensor]:
        if self.model.training:
            torch.manual_seed(step_seed(self.config["cmd"]["seed"] or 0, self.step, distutils.get_rank()))
        return super()._forward(batch)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed that differs between runs, steps and ranks."""
    return hash((seed, step, rank)) % 2**63  # of integers: the same in every process
