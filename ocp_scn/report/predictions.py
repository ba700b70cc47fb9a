"""Prediction files (S2EF, and IS2RE direct) compared with the data sets that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ocp_scn.arrays import doubled_ids, row_counts, some
from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.finite import check_label
from ocp_scn.fairchem.v1.data_checks import UNREADABLE, predicted_name
from ocp_scn.fairchem.v1.lmdb import read_data_set
from ocp_scn.fairchem.v1.metrics import evaluate
from ocp_scn.submission.results import Results


@dataclass(frozen=True)
class Targets:
    """Energies (S,) eV, forces of free atoms (F, 3) eV/Å (None for IS2RE), NaN where a structure has none,
    and numbers of free atoms (S,); sorted by id.

    ``composition`` (S,) eV is what a model's element references make of each structure; 0 without.
    """

    ids: list[str]
    energy: torch.Tensor
    forces: torch.Tensor | None
    free_atoms: torch.Tensor
    composition: torch.Tensor

    @property
    def unlabelled(self) -> bool:
        """Whether no structure has an energy."""
        return bool(self.energy.isnan().all())

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
        InputError: for a data set that does not exist or cannot be read, two of one name, or an id that comes
            twice.
    """
    train = config["dataset"]
    energy = {name: key for key, name in (train.get("key_mapping") or {}).items()}.get("energy", "energy")
    sources = [
        split["src"]
        for key in ("val_dataset", "test_dataset")
        if (split := config.get(key)) and split.get("src")
    ]
    sources += [source for source in more if any(energy in sample for sample in read_data_set(source))]
    named = {"train": train["src"]}
    for source in sources:
        before = named.setdefault(data_set_name(source), source)
        if Path(before).resolve() != Path(source).resolve():
            raise InputError(
                f"data sets {before!r} and {source!r} have one name; a report needs distinct ones"
            )
    return {name: _read_targets(source, energy, references) for name, source in named.items()}


def data_set_name(source: str) -> str:
    """Return the name of a data set's folder."""
    path = Path(source)
    return path.parent.name if path.suffix == ".lmdb" else path.name


def composition_energy(sample: Any, references: torch.Tensor | None) -> float:
    """Return the sum of the references, eV by atomic number, over a sample's atoms; 0 without."""
    return 0.0 if references is None else float(references[sample.atomic_numbers.long()].sum())


def _read_targets(source: str, energy_key: str, references: torch.Tensor | None) -> Targets:
    """Return the targets of a data set, sorted by id."""
    rows: dict[str, _Row] = {}
    ids = []
    for index, sample in enumerate(read_data_set(source)):
        try:
            ids.append(predicted_name(sample))
            for label in {energy_key, "forces"} & set(sample.keys()):
                check_label(f"data set {source!r}: {ids[-1]!r}", label, sample[label])
            rows[ids[-1]] = _row(sample, energy_key, references)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"data set {source!r}: sample {index} is none: {cause(error)}") from error
    doubled = doubled_ids(np.array(ids, dtype=str))
    if doubled:
        raise InputError(f"data set {source!r}: {doubled[0]}")
    names = sorted(rows)
    forces = torch.cat([rows[name].forces for name in names]) if names else torch.empty(0, 3)
    return Targets(
        names,
        torch.tensor([rows[name].energy for name in names], dtype=torch.float64),
        None if forces.isnan().all() else forces,
        torch.tensor([rows[name].free_atoms for name in names]),
        torch.tensor([rows[name].composition for name in names], dtype=torch.float64),
    )


class _Row(NamedTuple):
    """The targets of one structure."""

    energy: float
    forces: torch.Tensor
    free_atoms: int
    composition: float


def _row(sample: Any, energy_key: str, references: torch.Tensor | None) -> _Row:
    free = sample.fixed == 0
    forces = sample.forces if "forces" in sample else torch.full((len(free), 3), torch.nan)
    return _Row(
        float(sample[energy_key]) if energy_key in sample else torch.nan,
        forces[free].double(),
        int(free.sum()),
        composition_energy(sample, references),
    )


def matching(splits: Mapping[str, Targets], ids: np.ndarray) -> str | None:
    """Return the name of the data set that has these ids, which are sorted."""
    wanted = ids.tolist()
    return next((name for name, targets in splits.items() if targets.ids == wanted), None)


def mismatch(splits: Mapping[str, Targets], ids: np.ndarray) -> str:
    """Say how ids are not those of the data set that has most of them."""
    shared = {name: np.isin(ids, targets.ids) for name, targets in splits.items()}
    name = max(shared, key=lambda name: int(shared[name].sum()))
    known = shared[name]
    if not known.any():
        return f"none of its {len(ids)} ids is in a data set known, {some(ids)}"
    missing = np.setdiff1d(splits[name].ids, ids)
    foreign = ids[~known]
    lines = [f"{len(missing)} are missing, {some(missing)}"] if len(missing) else []
    lines += [f"{len(foreign)} are in no data set known, {some(foreign)}"] if len(foreign) else []
    return f"of its ids, compared with the {len(splits[name].ids)} of {name!r}, {'; '.join(lines)}"


def check_finite(path: Path, found: Results) -> None:
    """Check that predictions are numbers with which metrics can be made."""
    for name in ("energy", "forces"):
        wrong = ~np.isfinite(found[name]) if name in found else np.zeros(0, bool)
        if wrong.any():
            raise InputError(f"{path}: {wrong.sum()} of {wrong.size} numbers of {name} are not finite")


def check_rows(path: Path, found: Results, targets: Targets) -> None:
    """Check that predicted forces are those of each structure's free atoms.

    Args:
        path: the file of predictions, for messages.
        found: predictions with forces, sorted by id.
        targets: those of the same ids.
    """
    counts, expected = row_counts(found), targets.free_atoms.numpy()
    wrong = np.flatnonzero(counts != expected)
    if len(wrong):
        k = wrong[0]
        raise InputError(
            f"{path}: {len(wrong)} structures have forces of other atoms than the free ones; "
            f"{targets.ids[k]!r} has {counts[k]}, with {expected[k]} free"
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
