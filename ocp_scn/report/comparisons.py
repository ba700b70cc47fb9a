"""Predictions and relaxations of a run beside their data sets, and beside predictors that know nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ocp_scn.arrays import some
from ocp_scn.errors import InputError
from ocp_scn.npz import Npz
from ocp_scn.report.metrics import Errors, errors_of, metrics
from ocp_scn.report.predictions import (
    Targets,
    check_finite,
    check_rows,
    collect,
    composition_energy,
    data_set_name,
    matching,
    mismatch,
    read_targets,
)
from ocp_scn.report.runs import Training
from ocp_scn.report.samples import sample_of
from ocp_scn.submission.results import read_results

Splits = dict[str, Targets]  # of a training, by name; the training set as ``train``


@dataclass(frozen=True)
class Comparison:
    """Results and the data set that they belong to.

    ``predictors`` are metrics of the ``model`` and of the ``trivial`` predictor. ``energy`` (S,) is in
    eV; ``forces`` (F, 3) eV/Å of free atoms are None without any.
    """

    task: str
    name: str
    path: Path
    targets: Targets
    energy: np.ndarray
    forces: np.ndarray | None
    errors: Errors
    predictors: Mapping[str, Mapping[str, float]]


def read_splits(training: Training, more: Sequence[str], notes: list[str]) -> Splits:
    """Return the data sets of a training, and further ones that have its label.

    Args:
        training: the training.
        more: further data sets.
        notes: gets a line for each data set of the configuration that does not exist.

    Raises:
        InputError: for a data set that cannot be read, two of one name, or an id that comes twice.
    """
    named = {"train": training.train}
    for source in [*training.others, *more]:
        before = named.setdefault(data_set_name(source), source)
        if Path(before).resolve() != Path(source).resolve():
            raise InputError(
                f"data sets {before!r} and {source!r} have one name; a report needs distinct ones"
            )
    found: Splits = {}
    for name, source in named.items():
        if not Path(source).exists() and source not in more:
            notes.append(
                f"data set {source!r} of {training.name} does not exist here: run the report where the "
                "training ran, or pass --data FOLDER"
            )
            continue
        targets = read_targets(source, training.energy_key, training.references)
        if source not in more or not targets.unlabelled:
            found[name] = targets
    return found


def compare_predictions(
    paths: Sequence[Path], splits: Mapping[str, Splits], notes: list[str], *, lacking: bool
) -> list[Comparison]:
    """Compare every prediction file, of each data set the last one.

    Args:
        paths: the files, the newest last.
        splits: data sets of the training of each task.
        notes: gets a line for each file that is not compared.
        lacking: whether data sets of the configuration are gone, so that some files have none.

    Raises:
        InputError: for a file that cannot be read or whose ids are those of no data set.
    """
    found: dict[tuple[str, str], Comparison] = {}
    for path in paths:
        predictions = read_results([path], "s2ef" if "forces" in Npz(path) else "is2re")
        check_finite(path, predictions)
        names = {task: matching(sets, predictions["ids"]) for task, sets in splits.items()}
        task, name = next(((task, name) for task, name in names.items() if name), (None, None))
        if task is None or name is None:
            known = {name: targets for sets in splits.values() for name, targets in sets.items()}
            fault = f"{path}: {mismatch(known, predictions['ids'])}; pass --data FOLDER"
            if not lacking:
                raise InputError(fault)
            notes.append(f"not compared: {fault}")
            continue
        targets = splits[task][name]
        if targets.unlabelled:
            notes.append(f"not compared: {path}, since no structure of {name!r} has an energy")
            continue
        energy = np.asarray(predictions["energy"], dtype=np.float64).reshape(-1)
        forces = zero = None
        if targets.forces is not None and "forces" in predictions:
            check_rows(path, predictions, targets)
            forces = np.asarray(predictions["forces"], dtype=np.float64)
            zero = np.zeros_like(forces)
        mean = splits[task]["train"].rest if "train" in splits[task] else np.nan
        errors = errors_of(energy, forces, targets)
        trivial = metrics(errors_of(targets.composition + mean, zero, targets))
        if np.isnan(mean):
            trivial = {key: value for key, value in trivial.items() if key.startswith("forces")}
        predictors = {"model": metrics(errors), "trivial": trivial}
        found[task, name] = Comparison(task, name, path, targets, energy, forces, errors, predictors)
    return list(found.values())


def compare_relaxations(
    paths: Sequence[Path], mean: float, references: np.ndarray | None, notes: list[str]
) -> list[Comparison]:
    """Compare all relaxations of fairchem-core 1 with known results, of each data set the last ones.

    Args:
        paths: files of relaxed structures, the newest last; their folders' records know the data sets.
        mean: the mean relaxed energy of a training set, eV, beyond the references if given; NaN without.
        references: of elements, eV by atomic number.
        notes: gets a line for relaxations that lack systems.
    """
    from ocp_scn.fairchem.v1.lmdb import read_data_set  # noqa: PLC0415  # of one line
    from ocp_scn.fairchem.v1.relaxations import (  # noqa: PLC0415
        RECORD_FILE,
        Relaxed,
        read_record,
        read_relaxed,
        relaxation_metrics,
        relaxed_energy,
        system_name,
    )

    found: dict[str, Comparison] = {}
    for path in paths:
        relaxed, source = read_relaxed(path), read_record(path.parent / RECORD_FILE)["src"]
        if not Path(source).exists():
            notes.append(f"not compared: {path}, since data set {source!r} does not exist here")
            continue
        everything = list(read_data_set(source))
        known = {system_name(system): system for system in everything}
        foreign = np.setdiff1d(list(relaxed), list(known))
        if len(foreign):
            raise InputError(
                f"{path}: {len(foreign)} of its {len(relaxed)} ids are not in {source!r}, {some(foreign)}"
            )
        if len(relaxed) < len(known):
            notes.append(
                f"{path}: {len(known) - len(relaxed)} of the {len(known)} systems of {source!r} are not in it"
            )
        systems = {
            sid: system
            for sid, system in known.items()
            if sid in relaxed and relaxed_energy(system) is not None
        }
        model = relaxation_metrics(systems.values(), relaxed)
        if not model:
            continue
        initial, known_mean = {}, 0.0 if np.isnan(mean) else mean
        for sid, system in systems.items():
            composition = composition_energy(system.atomic_numbers.long().numpy(), references)
            initial[sid] = Relaxed(system.pos.double().numpy(), composition + known_mean)
        trivial = relaxation_metrics(systems.values(), initial)
        if np.isnan(mean):
            trivial = {key: value for key, value in trivial.items() if key.startswith("is2rs")}
        places = {system_name(system): row for row, system in enumerate(everything)}
        samples = [sample_of(system, sid, relaxed_energy(system) or 0.0) for sid, system in systems.items()]
        targets = collect([sample._replace(forces=None) for sample in samples], source)
        targets = replace(targets, rows=np.array([places[sid] for sid in targets.ids]))
        energy = np.array([relaxed[sid].energy for sid in targets.ids], dtype=np.float64)
        errors = errors_of(energy, None, targets)
        name = data_set_name(source)
        predictors = {"model": model, "trivial": trivial}
        found[name] = Comparison("relaxation", name, path, targets, energy, None, errors, predictors)
    return list(found.values())
