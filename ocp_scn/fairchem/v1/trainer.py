"""fairchem's trainer with what this package changes: resumed trainings, relaxations, known elements."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from torch.utils.data import BatchSampler

from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.progress import Progress
from ocp_scn.fairchem.training_data import (
    KnownElements,
    elements_of,
    sizes_of,
    warn_of_mean,
    warn_of_new_elements,
)
from ocp_scn.fairchem.v1 import finetuning
from ocp_scn.fairchem.v1.loading import read_checkpoint, reopen_databases
from ocp_scn.fairchem.v1.relaxations import (
    Relaxed,
    Results,
    relax,
    relaxation_metrics,
    relaxation_settings,
    system_name,
    weights_digest,
)
from ocp_scn.fairchem.v1.reporting import ReportingTrainer
from ocp_scn.trained import ELEMENTS_KEY

log = logging.getLogger(__name__)


class SCNTrainer(ReportingTrainer):
    """fairchem's trainer, whose trainings and relaxations go on after an interruption.

    Relaxations are resumed under the same ``--timestamp-id``, and their results are those of all systems.
    Checkpoints have the elements of their training data, and predictions mind them.
    """

    _started_from: Iterable[int] | None = ()  # elements of the checkpoint; None if that does not say
    _goes_on = False  # with a checkpoint's training

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Train, and let the checkpoints know the elements of the training data."""
        finetuned = (self.config["task"] or {}).get(finetuning.KEY)
        if finetuned is not None and not self._goes_on:
            self._started_from = finetuning.begin(self, finetuned).elements
        self._mind_elements(None)
        if distutils.is_master():  # which saves
            self._look_at_data()
        super().train(disable_eval_tqdm)

    def _look_at_data(self) -> None:
        if "energy" in self.normalizers and "energy" not in self.elementrefs:
            warn_of_mean(float(self.normalizers["energy"].mean), sizes_of(self.train_dataset))
        if self._started_from is None:
            return
        elements = elements_of(self.train_dataset)
        if elements is not None:
            warn_of_new_elements(elements, self._started_from)
            self.config[ELEMENTS_KEY] = sorted(elements.union(self._started_from))

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: Any = None, inference_only: bool = False
    ) -> None:
        """Load a checkpoint, and mind the elements that it was trained on in what is predicted."""
        if checkpoint is None:
            checkpoint = read_checkpoint(checkpoint_path, self.device)
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        self._goes_on = True
        self._started_from = elements = checkpoint.get("config", {}).get(ELEMENTS_KEY)
        if elements is not None:
            strict = self.config["model"].get("strict_elements", False)
            self._mind_elements(KnownElements(elements, strict=strict))

    def _mind_elements(self, known: KnownElements | None) -> None:
        if isinstance(self._unwrapped_model, BatchSCN):
            self._unwrapped_model.known = known

    def _denorm_preds(self, target_key: str, prediction: torch.Tensor, batch: Any) -> torch.Tensor:
        """Return fairchem's denormalised prediction; with references in float64, as they are large."""
        if target_key in self.elementrefs:
            prediction = prediction.double()
        return super()._denorm_preds(target_key, prediction, batch)

    def get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairchem's loader, whose processes open LMDB files themselves."""
        loader = super().get_dataloader(*args, **kwargs)
        loader.worker_init_fn = reopen_databases
        return loader

    @torch.no_grad()
    def run_relaxations(self) -> None:
        """Relax the systems of ``dataset.relax`` that no run of the same name has relaxed yet.

        fairchem's own leaves out of its results what an earlier run had relaxed, gives several ranks
        the same system to pad their batches, and compares every energy with those of its whole batch.
        """
        settings = relaxation_settings(self.config["task"])
        results = Results(Path(self.config["cmd"]["results_dir"]))
        optimizer = settings["relax_opt"]
        optimizer["traj_dir"] = optimizer.get("traj_dir") or str(results.folder / "trajectories")
        with self._evaluating():
            data, weights = self.config["relax_dataset"], weights_digest(self.model)
            results.claim(settings, data=data, weights=weights, write=distutils.is_master())
            before = results.read()
            relaxed = self._relax_rest(results, before, settings)
        gathered = distutils.gather_objects(relaxed)
        if not distutils.is_master():
            return
        for part in gathered:
            before |= part
        results.finish(before)
        log.info(f"wrote   {results.file}, {len(before):,} relaxed systems")
        metrics = relaxation_metrics(self.relax_dataset, before)
        if metrics:
            log.info("relax   " + ", ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
        if metrics and self.logger is not None:
            self.logger.log(metrics, step=self.step, split="val")

    def _relax_rest(
        self, results: Results, before: dict[str, Relaxed], settings: dict[str, Any]
    ) -> dict[str, Relaxed]:
        """Relax this rank's batches but those that were relaxed before; return what was relaxed now."""
        size, sampler = self.relax_sampler.batch_size, self.relax_sampler.sampler
        batches = list(BatchSampler(range(len(self.relax_dataset)), size, drop_last=False))
        batches = batches[: self.config["task"].get("num_relaxation_batches")]
        relaxed: dict[str, Relaxed] = {}
        mine = batches[sampler.rank :: sampler.num_replicas]
        progress = Progress("relaxing", "batches", len(mine), hidden=not distutils.is_master())
        for batch in mine:
            systems = [self.relax_dataset[index] for index in batch]
            if not all(system_name(system) in before for system in systems):
                found = relax(self, systems, settings)
                results.add(found)
                relaxed |= found
            progress.advance()
        progress.close()
        return relaxed

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Use the averaged weights, and the model without the wrapper that keeps ranks in step.

        Ranks take different numbers of relaxation steps, and the wrapper broadcasts at each of them.
        """
        model, ema = self.model, self.ema
        model.eval()
        if ema:
            ema.store()
            ema.copy_to()
        # Each prediction of a relaxation would store and copy them again.
        self.model, self.ema = self._unwrapped_model, None
        try:
            yield
        finally:
            self.model, self.ema = model, ema
            if ema:
                ema.restore()
