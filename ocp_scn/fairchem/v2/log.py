"""The losses of a training on record; fairchem-core 2 prints some of them, and keeps none but with wandb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter
from torchtnt.framework.callback import Callback


class LossLog(Callback):
    """Write the loss of every step and evaluation for tensorboard, into ``logs/tensorboard`` of the run.

    The loss is the mean of those of all ranks. Steps that a resumed training makes anew replace those before.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Begin a file."""
        if distutils.is_master():
            folder = Path(unit.job_config.metadata.log_dir) / "tensorboard"
            self._writer = SummaryWriter(str(folder))
            start = SessionLog(status=SessionLog.START)
            step = unit.train_progress.num_steps_completed + 1
            self._writer.file_writer.add_event(Event(step=step, session_log=start))

    def on_train_step_end(self, state: Any, unit: Any) -> None:
        """Write the loss of a step."""
        device = distutils.get_device_for_local_rank()
        loss = distutils.all_reduce(torch.tensor(float(unit.last_loss)), average=True, device=device)
        if self._writer is not None:
            self._writer.add_scalar("train/loss", float(loss), unit.train_progress.num_steps_completed)

    def on_eval_epoch_end(self, state: Any, unit: Any) -> None:
        """Write the loss of an evaluation, which fairchem has of the first rank."""
        loss = unit.eval_unit.total_loss_metrics.metric
        if self._writer is not None:
            self._writer.add_scalar("val/loss", float(loss), unit.train_progress.num_steps_completed)
            self._writer.flush()

    def on_train_end(self, state: Any, unit: Any) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:
        """End the file of a training that ends early."""
        self.on_train_end(state, unit)
