"""Look at a run's configuration, data and checkpoint before fairchem starts anything.

Each function raises :class:`InputError` with one line that names what was found.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fairchem.core.common.registry import registry
from ocp_scn.errors import InputError
from ocp_scn.fairchem.registration import NAMES
from ocp_scn.fairchem.v1 import SphericalChannelNetwork, check_model

# The data set that each mode cannot do without.
_NEEDED_SPLIT = {"train": "train", "validate": "val", "predict": "test", "run-relaxations": "relax"}


def check_run(config: Mapping[str, Any]) -> None:
    """Check a configuration as fairchem's ``build_config`` returns it."""
    model = config.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise InputError(f"configuration has model={model!r}; expected a section with a name, such as 'scn'")
    ours = model["name"] in NAMES
    if ours:
        check_model(dict(model))
    mode = config["mode"]
    splits = _splits(config.get("dataset"))
    needed = _NEEDED_SPLIT.get(mode)
    if needed and not splits.get(needed, {}).get("src"):
        raise InputError(f"--mode {mode} needs dataset.{needed}.src in the configuration; it is not set")
    targets = list(config.get("outputs", {})) if mode in ("train", "validate") else []
    for name, split in splits.items():
        if split.get("src") and (name == needed or mode == "train"):
            check_data_set(f"dataset.{name}", split, targets if name != "test" else [])
    _check_checkpoint(config, ours)


def check_data_set(name: str, settings: Mapping[str, Any], targets: list[str]) -> None:
    """Check that a data set exists, and that its first sample has the ``targets``."""
    sources = settings["src"] if isinstance(settings["src"], list) else [settings["src"]]
    for source in map(Path, sources):
        if not source.exists():
            raise InputError(f"{name}.src={str(source)!r} does not exist")
        if "lmdb" not in settings.get("format", "lmdb"):
            return
        if source.is_dir() and not list(source.glob("*.lmdb")):
            raise InputError(f"{name}.src={str(source)!r} has no *.lmdb file")
    data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
    if len(data_set) == 0:
        raise InputError(f"{name}.src={settings['src']!r} has no sample")
    try:
        sample = data_set[0]
    except (pickle.UnpicklingError, TypeError, EOFError, AttributeError) as error:
        raise InputError(f"{name}.src={settings['src']!r}: sample 0 cannot be read: {error}") from error
    missing = [target for target in [*targets, "pos", "cell", "natoms", "atomic_numbers"] if target not in sample]
    if missing:
        raise InputError(
            f"{name}.src={settings['src']!r}: sample 0 has no {missing[0]!r}; it has {', '.join(sorted(sample.keys()))}"
        )


def _splits(dataset: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of each split, completed from the training split as fairchem does."""
    if isinstance(dataset, list):  # the layout of 2022: train, val, test
        dataset = dict(zip(("train", "val", "test"), dataset, strict=False))
    splits = {name: dict(split or {}) for name, split in (dataset or {}).items()}
    train = splits.get("train", {})
    for name, split in splits.items():
        if name != "train" and split.get("use_train_settings", True):
            splits[name] = {**train, **split}
            splits[name]["src"] = split.get("src")
    return splits


def _check_checkpoint(config: Mapping[str, Any], ours: bool) -> None:
    path = config.get("checkpoint")
    if path is None:
        if config["mode"] != "train":
            raise InputError(f"--mode {config['mode']} needs --checkpoint")
        return
    if not Path(path).is_file():
        raise InputError(f"--checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
        weights = checkpoint["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, ValueError) as error:
        raise InputError(f"--checkpoint {path} is not a checkpoint of fairchem: {error}") from error
    if ours:
        settings = {key: value for key, value in config["model"].items() if key != "name"}
        check_weights(path, weights, SphericalChannelNetwork(**settings).state_dict())


def check_weights(path: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Check that a checkpoint's weights are those of a model with the configured settings."""
    found = {name.removeprefix("module.").removeprefix("module."): value for name, value in found.items()}
    if "sphere_embedding.weight" not in found:
        raise InputError(f"--checkpoint {path} is of another model: its first weight is {next(iter(found), None)!r}")
    for name, value in expected.items():
        if name not in found:
            raise InputError(f"--checkpoint {path} does not fit the model's settings: it has no {name}")
        if found[name].shape != value.shape:
            raise InputError(
                f"--checkpoint {path} does not fit the model's settings: {name} has the shape "
                f"{tuple(found[name].shape)}, the model {tuple(value.shape)}"
            )
    surplus = next((name for name in found if name not in expected), None)
    if surplus is not None:
        raise InputError(f"--checkpoint {path} does not fit the model's settings: the model has no {surplus}")
