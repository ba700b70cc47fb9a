"""fairchem's trainer with what this package changes: resumed trainings, and relaxations of all systems."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from torch.utils.data import BatchSampler
from tqdm import tqdm

from ocp_scn.fairchem.v1.loading import reopen_databases
from ocp_scn.fairchem.v1.relaxations import (
    Relaxed,
    Results,
    relax,
    relaxation_metrics,
    relaxation_settings,
    system_name,
    weights_digest,
)
from ocp_scn.fairchem.v1.resumption import ResumableTrainer


class SCNTrainer(ResumableTrainer):
    """fairchem's trainer, whose trainings and relaxations go on after an interruption.

    Relaxations are resumed under the same ``--timestamp-id``, and their results are those of all systems.
    """

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
        logging.info(f"Wrote {len(before)} relaxed systems to {results.file}")
        metrics = relaxation_metrics(self.relax_dataset, before)
        if metrics:
            logging.info(", ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
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
        for batch in tqdm(batches[sampler.rank :: sampler.num_replicas], position=sampler.rank):
            systems = [self.relax_dataset[index] for index in batch]
            if all(system_name(system) in before for system in systems):
                continue
            found = relax(self, systems, settings)
            results.add(found)
            relaxed |= found
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
