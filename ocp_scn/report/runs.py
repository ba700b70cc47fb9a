"""What a run's folder has: trainings, logs, files of results. It is of fairchem-core 1.10 or 2."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.files import RELAXED_FILE

CONFIG_FILE = "canonical_config.yaml"  # of fairchem-core 2


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        name: of the run.
        task: ``s2ef`` or ``is2re``.
        config: all settings.
        train: the training set.
        others: validation and test sets of the configuration.
        energy_key: the label that is the energy in these.
        references: of the model, eV by atomic number; None without.
        logs: the folder of tensorboard's files.
        print_every: steps after which the logged mean of the loss begins anew; None if losses are logged.
        versions: of packages in the training.
    """

    name: str
    task: str
    config: Mapping[str, Any]
    train: str
    others: tuple[str, ...]
    energy_key: str
    references: np.ndarray | None
    logs: Path
    print_every: int | None
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A run's folder: fairchem's line, the newest training of each task, files of results by age.

    ``data`` are data sets that predictions of fairchem-core 2 name.
    """

    line: int
    trainings: Mapping[str, Training]
    predictions: list[Path]
    relaxations: list[Path]
    data: list[str] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Read what a folder has.

    Raises:
        InputError: for a folder without a training, or files that cannot be read.
    """
    if any(_configs(folder)):
        return _read_second_line(folder)
    return Run(
        1,
        _first_line_trainings(folder),
        by_age(folder.glob("results/*/*predictions.npz")),
        by_age(folder.glob(f"results/*/{RELAXED_FILE}")),
    )


def by_age(paths: Iterable[Path]) -> list[Path]:
    """Return files, the newest last."""
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def _first_line_trainings(folder: Path) -> dict[str, Training]:
    paths = by_age(folder.glob("checkpoints/*/*checkpoint.pt"))
    if not paths:
        raise InputError(
            f"{folder} has no checkpoints/*/checkpoint.pt and no {CONFIG_FILE}; expected the --run-dir of a "
            "training, or the folder of one of fairchem-core 2"
        )
    try:
        from ocp_scn.fairchem.v1.loading import read_checkpoint  # noqa: PLC0415  # of one line
    except ImportError as error:
        raise InputError(
            f"{folder} is a run of fairchem-core 1.10; report on it in that environment: {error}"
        ) from error
    found: dict[str, Training] = {}
    for path in paths:
        checkpoint = read_checkpoint(path, needed=("state_dict", "config"), mmap=True)
        training = _first_line_training(folder, path, checkpoint)
        found[training.task] = training
    return dict(sorted(found.items(), reverse=True))


def _first_line_training(folder: Path, path: Path, checkpoint: Mapping[str, Any]) -> Training:
    config = checkpoint["config"]
    for name in ("outputs", "dataset"):
        if not isinstance(config.get(name), Mapping):
            raise InputError(f"{path}: its {name} is {config.get(name)!r}; expected a section")
    train = config["dataset"]
    if "src" not in train:
        raise InputError(f"{path} is no checkpoint of a training: it names no training set")
    splits = [config.get(key) for key in ("val_dataset", "test_dataset")]
    cmd = config.get("cmd") if isinstance(config.get("cmd"), Mapping) else {}
    references = (checkpoint.get("elementrefs") or {}).get("energy", {}).get("element_references")
    every = cmd.get("print_every")
    return Training(
        name=path.parent.name,
        task="s2ef" if "forces" in config["outputs"] else "is2re",
        config=config,
        train=train["src"],
        others=tuple(split["src"] for split in splits if split and split.get("src")),
        energy_key={name: key for key, name in (train.get("key_mapping") or {}).items()}.get(
            "energy", "energy"
        ),
        references=None if references is None else references.double().numpy(),
        logs=folder / "logs" / "tensorboard" / path.parent.name,
        print_every=every if isinstance(every, int) and every > 0 else 1,
        versions={"fairchem-core": str(cmd["version"])} if "version" in cmd else {},
    )


def _configs(folder: Path) -> list[Path]:
    """Return the configurations of runs of fairchem-core 2: the folder itself, or those that it holds."""
    return by_age([*folder.glob(CONFIG_FILE), *folder.glob(f"*/{CONFIG_FILE}")])


def _read_second_line(folder: Path) -> Run:
    trainings: dict[str, Training] = {}
    data: list[str] = []
    predictions = [*folder.glob("*predictions.npz"), *folder.glob("*/*predictions.npz")]
    predictions += folder.glob("**/results/**/*predictions.npz")
    for path in _configs(folder):
        config = _read_yaml(path)
        try:
            runner = config["runner"]
            if "train_eval_unit" in runner:
                training = _second_line_training(path, config)
                trainings[training.task] = training
            elif "results" in runner and "src" in runner:  # of a prediction
                data.append(str(runner["src"]))
                predictions += [file for file in [Path(runner["results"])] if file.is_file()]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path} is no configuration of a run: {cause(error)}") from error
    if not trainings:
        raise InputError(f"{folder} has no training: no {CONFIG_FILE} there or one folder below trains")
    different = {path.resolve(): path for path in predictions}
    return Run(
        2,
        dict(sorted(trainings.items(), reverse=True)),
        by_age(different.values()),
        [],
        list(dict.fromkeys(data)),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {cause(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no configuration of a run: it has no sections")
    return found


def _second_line_training(path: Path, config: Mapping[str, Any]) -> Training:
    runner = config["runner"]
    tasks = {task["property"]: task for task in runner["train_eval_unit"]["tasks"]}
    sets = {name: _data_sets(runner.get(name)) for name in ("train_dataloader", "eval_dataloader")}
    (train, energy_key), *_ = sets["train_dataloader"]
    folder = path.parent
    return Training(
        name=folder.name,
        task="s2ef" if "forces" in tasks else "is2re",
        config=config,
        train=train,
        others=tuple(source for source, _ in sets["eval_dataloader"]),
        energy_key=energy_key,
        references=_references(tasks["energy"].get("element_references")),
        logs=folder / "logs" / "tensorboard",
        print_every=None,
        versions=_versions(folder),
    )


def _data_sets(loader: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return folder and energy label of each data set that a loader of fairchem-core 2 reads."""
    if not loader:
        return []
    return [
        (str(split["src"]), data_set.get("energy_from", "energy"))
        for data_set in loader["dataset"]["dataset_configs"].values()
        for split in data_set["splits"].values()
    ]


def _references(config: Mapping[str, Any] | None) -> np.ndarray | None:
    values = (config or {}).get("element_references")
    return None if values is None else np.array(values["_args_"][0], dtype=np.float64)


def _versions(folder: Path) -> dict[str, str]:
    """Return the versions that fairchem-core 2 wrote down of the last start of a run."""
    wanted = ("fairchem-core", "ocp-scn", "torch", "e3nn", "ase", "numpy")
    for path in reversed(by_age(folder.glob("logs/environment/*.json"))):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["environment"]
            libraries = {name: str(found["libraries"][name]) for name in wanted if name in found["libraries"]}
            return {**libraries, "Python": str(found["python_version"]).split()[0]}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # that of an earlier start may be whole
    return {}
