"""Predictions of a whole data set, in the file that fairchem-core 1.10 writes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common import distutils
from fairchem.core.components.runner import Runner
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.units.mlip_unit import load_predict_unit
from tqdm import tqdm

from ocp_scn.errors import InputError
from ocp_scn.fairchem.parts import shard_range
from ocp_scn.fairchem.v2.data import AseDatabase

Prediction = tuple[str, float, np.ndarray | None]  # id, energy in eV, forces (F, 3) of free atoms in eV/Å


class PredictRunner(Runner):
    """Predict the energies and forces of a data set; labels are not needed.

    Writes ``ids`` (S,), ``energy`` (S, 1) and, of models with forces, ``forces`` (F, 3) of the free atoms,
    system after system, with ``chunk_idx`` that parts them; sorted by id, as ``--mode predict`` of
    fairchem-core 1.10 does with ``prediction_dtype: float32``.

    Args:
        checkpoint: an inference checkpoint.
        src: ASE databases, as fairchem's data sets take them.
        results: the npz file to write.
        task_name: data set of the model's tasks; its only one if None.
        max_atoms: atoms of a batch; a larger system is a batch by itself.
        shard: which part of the data set to predict, from 0; all if None.
        total_shards: number of parts.
    """

    def __init__(
        self,
        checkpoint: str,
        src: str,
        results: str,
        task_name: str | None = None,
        max_atoms: int = 1000,
        shard: int | None = None,
        total_shards: int | None = None,
    ) -> None:
        self.checkpoint, self.src, self.results = checkpoint, src, Path(results)
        self.task_name, self.max_atoms = task_name, max_atoms
        self.shard, self.total_shards = shard, total_shards

    def run(self) -> None:
        """Predict this rank's part; the first rank writes the file.

        Raises:
            InputError: if two systems have one id, the model has several data sets to choose from, or the
                shard does not exist.
        """
        device = distutils.get_device_for_local_rank().split(":")[0]
        unit = load_predict_unit(self.checkpoint, inference_settings="batch", device=device)
        task_name = self.task_name or _only(unit.dataset_to_tasks)
        dataset = AseDatabase({"src": self.src})
        rank, ranks = distutils.get_rank(), distutils.get_world_size()
        mine = list(shard_range(len(dataset), self.shard, self.total_shards)[rank::ranks])
        found: list[Prediction] = []
        with tqdm(total=len(mine), position=rank, desc=f"rank {rank}", unit=" systems") as bar:
            for systems in self._batches(dataset, mine):
                found += predict(unit, systems, task_name)
                bar.update(len(systems))
        gathered = distutils.gather_objects(found)
        if distutils.is_master():
            write_predictions(self.results, [prediction for part in gathered for prediction in part])
            logging.info(f"Wrote predictions of {sum(map(len, gathered))} systems to {self.results}")

    def _batches(self, dataset: AseDatabase, indices: list[int]) -> Iterator[list[Any]]:
        batch: list[Any] = []
        for index in indices:
            atoms = dataset.get_atoms(index)
            if batch and sum(map(len, batch)) + len(atoms) > self.max_atoms:
                yield batch
                batch = []
            batch.append(atoms)
        if batch:
            yield batch

    def save_state(self, checkpoint_location: str, is_preemption: bool = False) -> bool:
        """Save nothing: predictions begin anew."""
        return False

    def load_state(self, checkpoint_location: str | None) -> None:
        """Load nothing."""


def predict(unit: Any, systems: list[Any], task_name: str) -> list[Prediction]:
    """Return the predictions for a batch of ASE's atoms, whose info has ``sid`` and perhaps ``fid``."""
    batch = atomicdata_list_to_batch(
        [AtomicData.from_ase(atoms, task_name=task_name, sid=system_id(atoms)) for atoms in systems]
    )
    out = unit.predict(batch)
    energies = out["energy"].tolist()
    forces: list[Any] = [None] * len(systems)
    if "forces" in out:
        parts = zip(
            out["forces"].cpu().split(batch.natoms.tolist()),
            batch.fixed.cpu().split(batch.natoms.tolist()),
            strict=True,
        )
        forces = [part[fixed == 0].to(torch.float32).numpy() for part, fixed in parts]
    return list(zip(batch.sid, energies, forces, strict=True))


def system_id(atoms: Any) -> str:
    """Return SID_FID, or SID without a frame number, as fairchem-core 1.10 names predictions."""
    info = atoms.info
    return f"{info['sid']}_{info['fid']}" if "fid" in info else str(info["sid"])


def write_predictions(path: Path, predictions: list[Prediction]) -> None:
    """Write the file, whole or not at all; an :class:`InputError` if an id comes twice."""
    predictions = sorted(predictions, key=lambda prediction: prediction[0])
    ids = [name for name, _, _ in predictions]
    twice = next((a for a, b in itertools.pairwise(ids) if a == b), None)
    if twice is not None:
        raise InputError(f"two systems have the id {twice!r}; predictions need distinct ones")
    arrays = {"ids": np.array(ids), "energy": np.array([[e] for _, e, _ in predictions], dtype=np.float32)}
    forces = [f for _, _, f in predictions if f is not None]
    if forces:
        arrays["forces"] = np.concatenate(forces)
        arrays["chunk_idx"] = np.cumsum([len(f) for f in forces])[:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.part.npz")
    np.savez_compressed(work, **arrays)
    work.replace(path)


def _only(tasks: Mapping[str, Any]) -> str:
    if len(tasks) != 1:
        raise InputError(f"the model has the data sets {', '.join(sorted(tasks))}; choose one as task_name")
    return next(iter(tasks))
