"""What runs of fairchem-core 2 say: what they work with, how far they are, what came out and where it is."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.units.mlip_unit.mlip_unit import UNIT_INFERENCE_CHECKPOINT
from torchtnt.framework.callback import Callback

from ocp_scn.fairchem.console import near
from ocp_scn.fairchem.progress import Progress, devices, listed

log = logging.getLogger(__name__)
PREDICT = "configs/fairchem2/predict.yaml"  # which ``ocp-scn`` finds from any folder


def say_model(model: torch.nn.Module) -> None:
    """Say which model a run has, without what wraps it, and what it computes on."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    size = sum(parameter.numel() for parameter in inner.parameters())
    log.info(f"model   {type(inner).__name__}, {size:,} parameters, on {devices(_device())}")


def _device() -> torch.device:
    return torch.device(distutils.get_device_for_local_rank())


class EvaluationReport(Callback):
    """Say in a few lines what is evaluated, how far that is and what came out; the log has fairchem's own."""

    def __init__(self) -> None:
        self._counter: Progress | None = None
        self._metrics: Mapping[str, float] = {}

    def on_eval_start(self, state: Any, unit: Any) -> None:
        """Say model and data of an evaluation by itself."""
        self._note_metrics(unit)
        if distutils.is_master():
            say_model(unit.model)
            log.info(f"data    val {len(state.eval_state.dataloader.dataset):,} systems")

    def _note_metrics(self, unit: Any) -> None:
        """Keep the metrics that fairchem's unit returns to nobody, of all ranks."""
        aggregate = unit.on_eval_epoch_end

        def noted(state: Any) -> Any:
            self._metrics = aggregate(state)
            return self._metrics

        unit.on_eval_epoch_end = noted

    def on_eval_epoch_start(self, state: Any, unit: Any) -> None:
        """Begin to count the batches."""
        getattr(unit, "eval_unit", unit).report_every = math.inf  # fairchem prints how far it is
        batches, most = len(state.eval_state.dataloader), state.eval_state.max_steps_per_epoch
        total = batches if most is None else min(batches, most)
        self._counter = Progress("evaluating val", "batches", total, hidden=not distutils.is_master())

    def on_eval_step_end(self, state: Any, unit: Any) -> None:
        """Count a batch."""
        if self._counter is not None:
            self._counter.advance()

    def on_eval_epoch_end(self, state: Any, unit: Any) -> None:
        """Say the metrics in one line."""
        if self._counter is not None:
            self._counter.close()
        if distutils.is_master():
            self._say(state, unit, listed(named(self._metrics)))

    def _say(self, state: Any, unit: Any, metrics: str) -> None:
        log.info(f"val     {metrics}")

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:
        """Take the bar away."""
        if self._counter is not None:
            self._counter.close()


class TrainingReport(EvaluationReport):
    """The same of a training, with the time left, and what comes after it."""

    def __init__(self) -> None:
        super().__init__()
        self._training: Progress | None = None
        self._said: int | None = None

    def on_eval_start(self, state: Any, unit: Any) -> None:
        """Say nothing: the training has."""

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Say model and data, and whether the training goes on."""
        self._note_metrics(unit.eval_unit)
        done, total = unit.train_progress.num_steps_completed, _steps(state)
        self._training = Progress("training", "steps", total, done, hidden=not distutils.is_master())
        if not distutils.is_master():
            return
        say_model(unit.model)
        loaders = {"train": state.train_state.dataloader, "val": state.eval_state.dataloader}
        found = [f"{name} {len(loader.dataset):,}" for name, loader in loaders.items()]
        log.info(f"data    {', '.join(found)} systems")
        if done:
            log.info(f"resumed after step {done:,} of {total:,}")

    def on_train_step_end(self, state: Any, unit: Any) -> None:
        """Count a step; the device is idle, since fairchem has waited for its numbers."""
        if self._training is not None:
            self._training.advance(f"loss {float(unit.last_loss):.3g}")

    def _say(self, state: Any, unit: Any, metrics: str) -> None:
        step = unit.train_progress.num_steps_completed
        if step == self._said or self._training is None:  # fairchem evaluates once more where an epoch ends
            return
        self._said = step
        epochs = state.train_state.max_epochs
        part = step / len(state.train_state.dataloader)
        at = f"epoch {round(part, 2):g} of {epochs}"
        if epochs is None:
            at = f"step {step:,} of {_steps(state):,}"
        log.info(f"{at}: {metrics}; {self._training.times()}")

    def on_train_end(self, state: Any, unit: Any) -> None:
        """Say where the model is, and which commands come next."""
        if self._training is not None:
            self._training.close()
        if not distutils.is_master():
            return
        folder = Path(unit.job_config.metadata.checkpoint_dir)
        checkpoint = folder / "final" / UNIT_INFERENCE_CHECKPOINT
        if not checkpoint.is_file():  # without fairchem's callback for checkpoints
            return
        log.info(f"trained {near(checkpoint)}")
        run, evaluated = folder.parent, state.eval_state.dataloader.dataset.datasets
        settings = {
            "job.device_type": _device().type.upper(),
            "checkpoint": str(near(checkpoint)),
            "src": evaluated[0].config["src"],
            "results": str(near(run / "results/ocp_predictions.npz")),
        }
        predict = [f"{key}={_quoted(value)}" for key, value in settings.items()]
        log.info(f"next    {shlex.join(['ocp-scn', 'predict', '--config', PREDICT, *predict])}")
        log.info(f"next    {shlex.join(['ocp-scn', 'report', str(near(run))])}")

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:
        """Take the bars away."""
        super().on_exception(state, unit, exc)
        if self._training is not None:
            self._training.close()


def _steps(state: Any) -> int:
    """Return after how many steps a training ends."""
    settings = state.train_state
    epochs = settings.max_epochs
    of_epochs = math.inf if epochs is None else epochs * len(settings.dataloader)
    return int(min(of_epochs, math.inf if settings.max_steps is None else settings.max_steps))


def named(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return fairchem's metrics ``val/DATA.SPLIT,TASK,METRIC`` and the loss by shorter names.

    They are ``TASK_METRIC``, after ``DATA.SPLIT`` where there are several data sets.
    """
    parts = {key: key.removeprefix("val/").split(",") for key in metrics if key.count(",") == 2}
    several = len({data for data, _, _ in parts.values()}) > 1
    found = {
        f"{data} {task}_{metric}" if several else f"{task}_{metric}": float(metrics[key])
        for key, (data, task, metric) in parts.items()
    }
    return {**found, "loss": float(metrics["val/loss"])}


def _quoted(value: str | Sequence[str]) -> str:
    """Return a value, or a list of them, as hydra's command line takes it."""
    if not isinstance(value, str):
        return f"[{','.join(map(_quoted, value))}]"
    if re.fullmatch(r"[\w./-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
