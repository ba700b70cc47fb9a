"""What goes wrong in one of several ranks, as a callback that a configuration adds."""

from __future__ import annotations

import resource
from typing import Any

import torch
from fairchem.core.common import distutils
from torchtnt.framework.callback import Callback


class Fault(Callback):
    """Give the second rank, at its third step, weights that are NaN or less memory than it asks for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_step_start(self, state: Any, unit: Any) -> None:
        if unit.train_progress.num_steps_completed == 2 and distutils.get_rank() == 1:
            unit.model.module.register_forward_pre_hook(getattr(self, self.kind))

    @staticmethod
    def not_finite(model: Any, inputs: Any) -> None:
        next(model.parameters()).data.fill_(torch.nan)

    @staticmethod
    def little_memory(model: Any, inputs: Any) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, resource.RLIM_INFINITY))
        torch.empty(1 << 36)
