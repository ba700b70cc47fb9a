"""Predictions of a whole data set, in the file that fairchem-core 1.10 writes."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common import distutils
from fairchem.core.components.runner import Runner
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

from ocp_scn.allocator import keep_freed_memory
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import refused_writes, written_whole
from ocp_scn.fairchem.memory import memory_named
from ocp_scn.fairchem.progress import Progress
from ocp_scn.fairchem.v2.checkpoint import load_predict_unit
from ocp_scn.fairchem.v2.data import AseDatabase
from ocp_scn.fairchem.v2.reporting import say_model
from ocp_scn.npz import write_npz
from ocp_scn.predictions import batches, shard_range, structure_name
from ocp_scn.signals import ending

log = logging.getLogger(__name__)
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
        shard: of ``total_shards`` consecutive, equal parts of the data set, the one to predict, from 0.
        total_shards: the whole data set if None.
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
        if not results.endswith(".npz"):
            raise InputError(f"results={results!r}; expected a name that ends with .npz")
        self.checkpoint, self.src, self.results = checkpoint, src, Path(results)
        self.task_name, self.max_atoms = task_name, max_atoms
        self.shard, self.total_shards = shard, total_shards

    def run(self) -> None:
        """Predict this rank's part; the first rank writes the file.

        Raises:
            InputError: if two systems have one id, for a ``task_name`` or shard that there is not, or for a
                batch for which the memory is too small.
        """
        keep_freed_memory()
        dataset = AseDatabase({"src": self.src})
        with refused_writes(self.results):  # here rather than in the end
            self.results.parent.mkdir(parents=True, exist_ok=True)
        rank, ranks = distutils.get_rank(), distutils.get_world_size()
        mine = shard_range(len(dataset), self.shard, self.total_shards)[rank::ranks]
        check_ids(self.src, [_name(_structure(dataset, index)) for index in mine])
        device = distutils.get_device_for_local_rank().split(":")[0]
        unit = load_predict_unit(self.checkpoint, inference_settings="batch", device=device)
        task_name = _task_name(self.task_name, unit.dataset_to_tasks)
        found: list[Prediction] = []
        ending.watch("nothing is written, and the same command begins anew")
        master = distutils.is_master()
        if master:
            say_model(unit.model)
            log.info(f"data    {self.src}, {len(dataset):,} systems")
        progress = Progress("predicting", "systems", len(mine), hidden=not master)
        structures = (_structure(dataset, index) for index in mine)
        with memory_named(unit.model, f"max_atoms={self.max_atoms}"):
            for systems in batches(structures, len, self.max_atoms):
                if ending.number is not None:
                    ending.end(ending.number, silent=not master)
                found += predict(unit, systems, task_name)
                progress.advance(count=len(systems))
        progress.close()
        gathered = distutils.gather_objects(found)
        if master:
            predictions = [prediction for part in gathered for prediction in part]
            write_predictions(self.results, predictions)
            log.info(f"wrote   {self.results}, {len(predictions):,} systems")

    def save_state(self, checkpoint_location: str, is_preemption: bool = False) -> bool:
        """Save nothing: predictions begin anew."""
        return False

    def load_state(self, checkpoint_location: str | None) -> None:
        """Load nothing."""


def check_ids(src: str, names: list[str]) -> None:
    """Refuse a data set in which systems have one id, on every rank, before anything is predicted.

    Args:
        src: the data set.
        names: ids of this rank's systems.

    Raises:
        InputError: if two systems, of whatever ranks, have one id.
    """
    parts = distutils.gather_objects(names)
    counts = Counter(name for part in parts for name in part) if distutils.is_master() else Counter()
    twice = [next((name for name, count in counts.items() if count > 1), None)]
    distutils.broadcast_object_list(twice, src=0)
    if twice[0] is not None:
        raise InputError(f"{src}: two systems have the id {twice[0]!r}; predictions need distinct ones")


def predict(unit: Any, systems: list[Any], task_name: str) -> list[Prediction]:
    """Return the predictions for a batch of ASE's atoms, whose info has ``sid`` and perhaps ``fid``."""
    names = [_name(atoms) for atoms in systems]
    batch = atomicdata_list_to_batch(
        [
            AtomicData.from_ase(atoms, task_name=task_name, sid=name)
            for atoms, name in zip(systems, names, strict=True)
        ]
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
    return list(zip(names, energies, forces, strict=True))


def _structure(dataset: AseDatabase, index: int) -> Any:
    """Return a row's atoms; a row without a ``sid`` is named by its number, as fairchem does."""
    atoms = dataset.get_atoms(index)
    atoms.info.setdefault("sid", index)
    return atoms


def _name(atoms: Any) -> str:
    return structure_name(atoms.info["sid"], atoms.info.get("fid"))


def write_predictions(path: Path, predictions: list[Prediction]) -> None:
    """Write the file, whole or not at all.

    Raises:
        InputError: if an id comes twice, or the file cannot be written.
    """
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
    with written_whole(path) as part:
        write_npz(part, arrays.items())


def _task_name(name: str | None, tasks: Mapping[str, Any]) -> str:
    """Return the data set whose tasks are predicted: ``name``, or the only one."""
    if name is None and len(tasks) == 1:
        return next(iter(tasks))
    if name is None or name not in tasks:
        raise InputError(f"task_name={name!r}; expected {' or '.join(sorted(tasks))}, which the model has")
    return name
