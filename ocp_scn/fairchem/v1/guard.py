"""fairchem's trainer, which ends a training whose numbers are not finite, and saves and loads none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ocp_scn.fairchem.finite import check_finite_weights, is_finite
from ocp_scn.fairchem.stop import stop_training
from ocp_scn.fairchem.v1.normalization import NormalizedTrainer


class GuardedTrainer(NormalizedTrainer):
    """fairchem's trainer, which stops at the first loss or gradient that is not finite, before it is applied.

    fairchem goes on with weights that are NaN, and saves them over the last good ones. Nothing waits here
    for the device that fairchem would not wait for: it logs each loss and each norm of the gradient.
    """

    step: int
    clip_grad_norm: float | None
    batch: Any = None  # that is computed

    def load_extras(self) -> None:
        """Make the schedule and the average; gradients are clipped where their norm can be looked at."""
        super().load_extras()
        self._max_norm, self.clip_grad_norm = self.clip_grad_norm or math.inf, None
        # GradScaler calls a step only where it found the gradients finite: what it skips is no fault.
        self.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, *_: Any) -> None:
        norm = clip_grad_norm_(self.model.parameters(), self._max_norm).item()
        if self.logger is not None:
            self.logger.log({"grad_norm": norm}, step=self.step, split="train")
        # With a scaler, a fused optimiser is called for every step and skips it by itself.
        if not math.isfinite(norm) and self.scaler is None:
            stop_training("gradient", self.step, self.batch, self._last_checkpoint())

    def _forward(self, batch: Any) -> dict[str, torch.Tensor]:
        self.batch = batch
        return super()._forward(batch)

    def _compute_loss(self, out: Any, batch: Any) -> torch.Tensor:
        self._own_loss = super()._compute_loss(out, batch)
        return self._own_loss

    def _backward(self, loss: torch.Tensor) -> None:
        # fairchem has read the loss of this step, that of all ranks, for the log.
        if not math.isfinite(self.metrics["loss"]["total"]):
            mine = not is_finite(self._own_loss)
            stop_training("loss", self.step, self.batch, self._last_checkpoint(), mine=mine)
        super()._backward(loss)

    def _last_checkpoint(self) -> str:
        own = Path(self.config["cmd"]["checkpoint_dir"]) / "checkpoint.pt"
        return f"the last checkpoint is {own}" if own.is_file() else "this run has no checkpoint yet"

    def save(
        self, metrics: Any = None, checkpoint_file: str = "checkpoint.pt", training_state: bool = True
    ) -> str | None:
        """Write a checkpoint.

        Raises:
            InputError: for weights that are not finite; what was there before stays.
        """
        average = self.ema.shadow_params if self.ema else []
        for part in (self.model.state_dict(), {f"average {n}": value for n, value in enumerate(average)}):
            check_finite_weights(f"step {self.step} is not saved, {self._last_checkpoint()}: the model", part)
        return super().save(metrics, checkpoint_file, training_state)

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: Any = None, inference_only: bool = False
    ) -> None:
        """Load a checkpoint, which SCNTrainer has read.

        Raises:
            InputError: for weights that are not finite.
        """
        average = (checkpoint.get("ema") or {}).get("shadow_params", [])
        for part in (checkpoint["state_dict"], {f"average {n}": value for n, value in enumerate(average)}):
            check_finite_weights(f"checkpoint {checkpoint_path}", part)
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
