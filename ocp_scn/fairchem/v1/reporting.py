"""fairchem's trainer, which says in a few lines what it works with, how far it is and what came out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from torch_geometric.data import Batch

from ocp_scn.fairchem.progress import Progress, devices, listed
from ocp_scn.fairchem.v1.resumption import ResumableTrainer

log = logging.getLogger(__name__)


class ReportingTrainer(ResumableTrainer):
    """fairchem's trainer, whose few messages are those that a person needs; the log has fairchem's own."""

    _training: Progress | None = None
    _counter: Progress | None = None

    def load(self, inference_only: bool) -> None:
        """Load what fairchem loads, and say what it is."""
        super().load(inference_only)
        if inference_only or not distutils.is_master():
            return
        size = sum(parameter.numel() for parameter in self._unwrapped_model.parameters())
        log.info(f"model   {self.config['model']['name']}, {size:,} parameters, on {devices(self.device)}")
        sets = {name: getattr(self, f"{name}_dataset", None) for name in ("train", "val", "test", "relax")}
        found = [f"{name} {len(data):,}" for name, data in sets.items() if data is not None]
        log.info(f"data    {', '.join(found)} systems")

    @contextmanager
    def _counted(self, what: str, loader: Any, *, hidden: bool) -> Iterator[None]:
        """Count the batches of an evaluation."""
        outer = self._counter
        self._counter = Progress(what, "batches", len(loader), hidden=hidden or not distutils.is_master())
        try:
            yield
        finally:
            self._counter.close()
            self._counter = outer

    def _forward(self, batch: Any) -> dict[str, torch.Tensor]:
        out = super()._forward(batch)
        if self._counter is not None and not self.model.training:
            self._counter.advance()
        return out

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Train as fairchem does; say how far it is, and where the checkpoints are."""
        master = distutils.is_master()
        steps = self.config["optim"]["max_epochs"] * len(self.train_loader)
        if master and self.step:
            log.info(f"resumed after step {self.step:,} of {steps:,}")
        self._training = Progress("training", "steps", steps, self.step, hidden=not master)
        try:
            super().train(disable_eval_tqdm)
        finally:
            self._training.close()
        if master and not self.is_debug:
            folder = Path(self.config["cmd"]["checkpoint_dir"])
            files = [f"{path.name}{self._merit(path)}" for path in sorted(folder.glob("*checkpoint.pt"))]
            log.info(f"trained {', '.join(files)} in {folder}")

    def _merit(self, path: Path) -> str:
        if path.name != "best_checkpoint.pt":
            return ""
        primary = self.evaluation_metrics.get("primary_metric", self.evaluator.task_primary_metric[self.name])
        return f" ({primary}: {self.best_val_metric:.4f})"

    def _backward(self, loss: torch.Tensor) -> None:
        super()._backward(loss)
        if self._training is None or not distutils.is_master():
            return
        self._training.advance(f"loss {self.metrics['loss']['metric']:.3g}")
        if self.val_loader is None and self.step % len(self.train_loader) == 0:
            self._say_epoch(self.metrics)

    def _say_epoch(self, metrics: Mapping[str, Any]) -> None:
        if self._training is not None:
            epochs, times = self.config["optim"]["max_epochs"], self._training.times()
            log.info(f"epoch {round(self.epoch, 2):g} of {epochs}: {_values(metrics)}; {times}")

    def validate(self, split: str = "val", disable_tqdm: bool = False) -> Any:
        """Evaluate as fairchem does, and say the metrics in one line."""
        loader = self.val_loader if split == "val" else self.test_loader
        with self._counted(f"evaluating {split}", loader, hidden=disable_tqdm):
            metrics = super().validate(split, disable_tqdm=True)
        if distutils.is_master():
            if self._training is None:
                log.info(f"{split:<7} {_values(metrics)}")
            else:
                self._say_epoch(metrics)
        return metrics

    def predict(
        self,
        data_loader: Any,
        per_image: bool = True,
        results_file: str | None = None,
        disable_tqdm: bool = False,
    ) -> Any:
        """Predict as fairchem does, and say where the file of a data set's predictions is."""
        if isinstance(data_loader, Batch):  # of a relaxation, or of ASE's calculator
            return super().predict(data_loader, per_image, results_file, disable_tqdm)
        with self._counted("predicting", data_loader, hidden=disable_tqdm):
            found = super().predict(data_loader, per_image, results_file, disable_tqdm=True)
        if results_file and self._training is None and distutils.is_master():
            path = Path(self.config["cmd"]["results_dir"]) / f"{self.name}_{results_file}.npz"
            log.info(f"wrote   {path}, {len(data_loader.dataset):,} systems")
        return found


def _values(metrics: Mapping[str, Any]) -> str:
    return listed({name: value["metric"] for name, value in metrics.items()})
