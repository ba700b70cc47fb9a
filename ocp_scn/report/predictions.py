"""Prediction files (S2EF, and IS2RE direct) compared with the data sets that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ocp_scn.fairchem.v1.lmdb import open_data_set
from ocp_scn.fairchem.v1.metrics import evaluate


@dataclass(frozen=True)
class Targets:
    """Energies (S,) eV, forces of free atoms (F, 3) eV/Å (None for IS2RE), NaN where a structure has none,
    and numbers of free atoms (S,).

    ``composition`` (S,) eV is what a model's element references make of each structure; 0 without.
    """

    ids: list[str]
    energy: torch.Tensor
    forces: torch.Tensor | None
    free_atoms: torch.Tensor
    composition: torch.Tensor

    @property
    def rest(self) -> float:
        """The mean energy beyond the composition's, eV."""
        return float((self.energy - self.composition).nanmean())


def data_sets(
    config: dict[str, Any], more: list[str], references: torch.Tensor | None = None
) -> dict[str, Targets]:
    """Read the targets of a training's data sets, and of further folders that have the same ones.

    Args:
        config: of the training.
        more: further folders.
        references: of its model, eV by atomic number.

    Returns:
        The targets by :func:`data_set_name`; those of the training set as ``train``.

    Raises:
        InputError: for a data set that does not exist.
    """
    train = config["dataset"]
    energy = {name: key for key, name in (train.get("key_mapping") or {}).items()}.get("energy", "energy")
    sources = [
        split["src"]
        for key in ("val_dataset", "test_dataset")
        if (split := config.get(key)) and split.get("src")
    ]
    sources += [source for source in more if any(energy in sample for sample in open_data_set(source))]
    found = {"train": _read_targets(train["src"], energy, references)}
    return found | {data_set_name(source): _read_targets(source, energy, references) for source in sources}


def data_set_name(source: str) -> str:
    """Return the name of a data set's folder."""
    path = Path(source)
    return path.parent.name if path.suffix == ".lmdb" else path.name


def composition_energy(sample: Any, references: torch.Tensor | None) -> float:
    """Return the sum of the references, eV by atomic number, over a sample's atoms; 0 without."""
    return 0.0 if references is None else float(references[sample.atomic_numbers.long()].sum())


def _read_targets(source: str, energy_key: str, references: torch.Tensor | None) -> Targets:
    ids, energy, forces, free_atoms, composition, some_forces = [], [], [], [], [], False
    for sample in open_data_set(source):
        free = sample.fixed == 0
        ids.append(f"{sample.sid}_{sample.fid}" if "fid" in sample else str(sample.sid))
        energy.append(float(sample[energy_key]) if energy_key in sample else torch.nan)
        free_atoms.append(int(free.sum()))
        composition.append(composition_energy(sample, references))
        labelled = "forces" in sample
        some_forces |= labelled
        forces.append((sample.forces if labelled else torch.full((len(free), 3), torch.nan))[free].double())
    return Targets(
        ids,
        torch.tensor(energy, dtype=torch.float64),
        torch.cat(forces) if some_forces else None,
        torch.tensor(free_atoms),
        torch.tensor(composition, dtype=torch.float64),
    )


def matching(splits: dict[str, Targets], ids: np.ndarray) -> str | None:
    """Return the name of the data set that has these ids."""
    wanted = sorted(ids.tolist())
    return next((name for name, targets in splits.items() if sorted(targets.ids) == wanted), None)


def reorder(targets: Targets) -> Targets:
    """Return targets sorted by id, as fairchem writes predictions."""
    order, forces = np.argsort(targets.ids), targets.forces
    if forces is not None:
        blocks = forces.split(targets.free_atoms.tolist())
        forces = torch.cat([blocks[i] for i in order])
    return Targets(
        [targets.ids[i] for i in order],
        targets.energy[order],
        forces,
        targets.free_atoms[order],
        targets.composition[order],
    )


def metrics(energy: torch.Tensor, forces: torch.Tensor | None, targets: Targets) -> dict[str, float]:
    """Return fairchem's metrics of energies (S,) eV and forces of free atoms (F, 3) eV/Å."""
    names: dict[str, list[str]] = {"energy": ["mae", "energy_within_threshold"]}
    prediction = {"energy": energy, "natoms": targets.free_atoms}
    truth = {"energy": targets.energy, "natoms": targets.free_atoms}
    if forces is not None and targets.forces is not None:
        names |= {"forces": ["mae", "cosine_similarity"], "misc": ["energy_forces_within_threshold"]}
        prediction["forces"], truth["forces"] = forces, targets.forces
    return evaluate(names, prediction, truth)
