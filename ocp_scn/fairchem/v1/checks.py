"""Look at a run's configuration, data and checkpoint before fairchem starts anything.

Each function raises `InputError` with one line that names what was found.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.modules.normalization.element_references import create_element_references

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.ranges import above_zero, decay, not_negative, whole
from ocp_scn.fairchem.scales import DERIVATIVES
from ocp_scn.fairchem.v1.data_checks import (
    check_data_set,
    check_fits,
    check_samples,
    predicted_name,
    relaxed_name,
)
from ocp_scn.fairchem.v1.finetuning import finetuned_from
from ocp_scn.fairchem.v1.folders import checkpoint_path
from ocp_scn.fairchem.v1.keys import check_known
from ocp_scn.fairchem.v1.loading import check_fit, read_checkpoint
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.fairchem.v1.normalization import check_derivatives, configured_scales, float_coefficients
from ocp_scn.fairchem.v1.registration import NAMES
from ocp_scn.fairchem.v1.relaxations import OPTIMIZER_KEYS, relaxation_settings
from ocp_scn.fairchem.v1.sections import check_sections
from ocp_scn.npz import check_npz

_OPTIM_RANGES: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(("batch_size", "eval_batch_size", "eval_every", "checkpoint_every"), whole),
    **dict.fromkeys(("lr_initial", "lr_gamma", "warmup_factor", "clip_grad_norm"), above_zero),
    **dict.fromkeys(("num_workers", "warmup_steps"), lambda name, value: whole(name, value, 0)),
    "weight_decay": not_negative,
    "ema_decay": decay,
}
# The data set that each mode cannot do without.
_NEEDED_SPLIT = {"train": "train", "validate": "val", "predict": "test", "run-relaxations": "relax"}


def check_run(config: Mapping[str, Any]) -> None:
    """Check a configuration as fairchem's ``build_config`` returns it."""
    model = config.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise InputError(f"configuration has model={model!r}; expected a section with a name, such as 'scn'")
    check_sections(config)
    known = sorted(registry.mapping["model_name_mapping"])
    if model["name"] not in known and "." not in str(model["name"]):
        raise InputError(
            f"model.name={model['name']!r}; expected {', '.join(known)}, or a class by its dotted path"
        )
    ours = model["name"] in NAMES
    if ours:
        check_model(model)
        check_known("outputs", config.get("outputs") or {}, ("energy", *DERIVATIVES))
    if ours and config.get("gp_gpus") is not None:
        raise InputError(
            f"--gp-gpus {config['gp_gpus']}: this model does not split a system over ranks; "
            "--num-gpus gives each rank systems of its own"
        )
    check_normalizers(config)
    mode = config["mode"]
    splits = _splits(config.get("dataset"))
    needed = _NEEDED_SPLIT.get(mode)
    if needed and not splits.get(needed, {}).get("src"):
        raise InputError(f"--mode {mode} needs dataset.{needed}.src in the configuration; it is not set")
    if mode == "run-relaxations":
        check_relaxation(config)
    targets = list(config.get("outputs") or {}) if mode in ("train", "validate") else []
    keys: dict[str, list[str]] = {
        "test": ["sid"] if mode == "predict" else [],
        "relax": ["sid", "fixed", "tags"],
    }
    sizes = {
        name: check_data_set(f"dataset.{name}", split, keys.get(name, []), [] if name in keys else targets)
        for name, split in splits.items()
        if split.get("src") and (name == needed or mode == "train")
    }
    references = (splits.get("train", {}).get("transforms") or {}).get("element_references") or {}
    if mode == "train":
        check_fits(splits["train"])
        if ours:
            _check_losses(config.get("loss_functions"), check_model(model))
        _check_schedule(config, sizes["train"])
        check_references(references, list(config.get("outputs") or {}))
    checkpoint = _check_checkpoint(config, ours)
    if mode != "train" and references and not checkpoint.get("elementrefs"):
        raise InputError(
            f"dataset.train.transforms.element_references is set, but --checkpoint {config['checkpoint']} "
            "was trained without references"
        )
    if mode == "predict":
        check_samples("dataset.test", splits["test"], "id", predicted_name)
    if mode == "run-relaxations":
        check_samples("dataset.relax", splits["relax"], "sid", relaxed_name)


def check_device(config: Mapping[str, Any], local_rank: int) -> None:
    """Check that a rank of a run without ``--cpu`` has a GPU."""
    found = torch.cuda.device_count()
    if not config["cpu"] and local_rank >= found:
        raise InputError(
            f"rank {local_rank} of this node needs a GPU, but {found} are visible; --cpu uses none"
        )


def check_model(settings: Mapping[str, Any]) -> SCNConfig:
    """Return the settings in the ``model`` section of a configuration that names this package's model."""
    return SCNConfig.from_settings({key: value for key, value in settings.items() if key != "name"})


def check_normalizers(config: Mapping[str, Any]) -> None:
    """Check the numbers that a configuration has for normalizers and losses.

    Those of forces and stress that are derivatives have to be the energy's. The trainer checks that
    where they are fitted or come from files or a checkpoint.
    """
    float_coefficients(config.get("loss_functions") or [])
    transforms = _splits(config.get("dataset")).get("train", {}).get("transforms") or {}
    scales = configured_scales(transforms.get("normalizer") or {})
    derived = config["model"]["name"] in NAMES and not config["model"].get("direct_forces", True)
    begins = checkpoint_path(config) is None and finetuned_from(config) is None
    if derived and scales is not None and begins:
        check_derivatives(config.get("outputs") or {}, scales)


def check_references(references: Mapping[str, Any], outputs: list[str]) -> None:
    """Check the section ``element_references``: its targets, and the files that it names."""
    name = "dataset.train.transforms.element_references"
    for target, settings in references.items():
        if target not in ("fit", "file", *outputs):
            raise InputError(f"{name} has {target!r}; expected {', '.join(outputs)}, fit or file")
        if target in outputs:
            try:
                check_npz(dict(settings).get("file"))
                create_element_references(**settings)
            except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
                raise InputError(f"{name}.{target}={settings!r} cannot be read: {error}") from error


def check_relaxation(config: Mapping[str, Any]) -> None:
    """Check what ``--mode run-relaxations`` reads of the sections ``task`` and ``outputs``."""
    outputs = config.get("outputs") or {}
    if outputs and "forces" not in outputs:
        raise InputError(f"--mode run-relaxations needs a model of forces; outputs has {', '.join(outputs)}")
    settings = relaxation_settings(config.get("task") or {})
    if not isinstance(settings["steps"], int) or settings["steps"] < 1:
        raise InputError(f"task.relaxation_steps={settings['steps']!r}; expected an integer of at least 1")
    if not isinstance(settings["fmax"], int | float) or settings["fmax"] <= 0:
        raise InputError(f"task.relaxation_fmax={settings['fmax']!r}; expected a number above 0, in eV/Å")
    unknown = next((key for key in settings["relax_opt"] if key not in OPTIMIZER_KEYS), None)
    if unknown is not None:
        raise InputError(f"task.relax_opt has {unknown!r}; expected {', '.join(OPTIMIZER_KEYS)}")


def without_unneeded_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the sources that its mode does not read left out.

    fairchem opens every configured data set in every mode, so a user who validates or predicts
    would need the training data too. Those stay where a normalizer is fitted to them. Element references
    come from the checkpoint, not from their file.
    """
    kept = copy.deepcopy(dict(config))
    dataset, needed = kept.get("dataset"), _NEEDED_SPLIT.get(kept["mode"])
    if kept["mode"] == "train" or not isinstance(dataset, dict):
        return kept
    transforms = (dataset.get("train") or {}).get("transforms") or {}
    transforms.pop("element_references", None)
    fitted = "fit" in (transforms.get("normalizer") or {})
    for name in ("train", "val", "test"):
        if name != needed and dataset.get(name) and not (name == "train" and fitted):
            dataset[name].pop("src", None)
    if needed != "relax":
        dataset.pop("relax", None)
    return kept


def _check_schedule(config: Mapping[str, Any], size: int | None) -> None:
    """Check what fairchem refuses deep inside, and that the training lives to save something."""
    optim = config.get("optim") or {}
    _check_optimizer(optim)
    early = [step for step in optim.get("lr_milestones", []) if step < 100]
    if early:
        raise InputError(f"optim.lr_milestones has {early[0]}; expected steps, at least 100 (not epochs)")
    # fairchem saves where it evaluates, but every so many steps if that is set, or (-1) after each epoch.
    key = "checkpoint_every" if "checkpoint_every" in optim else "eval_every"
    every = optim.get(key)
    if size is None or every is None:
        return
    steps = math.ceil(size / (optim.get("batch_size", 1) * config.get("world_size", 1))) * optim["max_epochs"]
    if steps < every:
        raise InputError(
            f"the training ends after {steps} steps, before optim.{key}={every}: nothing would be saved"
        )


def _check_losses(losses: Any, settings: SCNConfig) -> None:
    """Raise `InputError` for a readout without a loss, whose weights DistributedDataParallel would miss."""
    if not losses:  # files before 2023 have them from their task
        return
    given = {name for part in (losses if isinstance(losses, list) else [losses]) for name in part}
    name = settings.untrained(given)
    if name is not None:
        other = ", or set model.regress_forces: False" if name == "forces" else ""
        raise InputError(
            f"loss_functions has no {name!r}, for which the model has weights of its own; add it, with "
            f"coefficient: 0 if it is not to be trained{other}"
        )


def _check_optimizer(optim: Mapping[str, Any]) -> None:
    """Check the numbers of the section ``optim`` that a training would take and learn nothing with."""
    whole("optim.max_epochs", optim.get("max_epochs"))
    for key, check in _OPTIM_RANGES.items():
        given = key in optim and (check is whole or optim[key] is not None)
        if given and (key, optim[key]) != ("checkpoint_every", -1):  # after each epoch
            check(f"optim.{key}", optim[key])


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


def _check_checkpoint(config: Mapping[str, Any], ours: bool) -> Mapping[str, Any]:
    """Check the checkpoint that a run starts from, if there is one, and return it."""
    if config.get("checkpoint") is None and config["mode"] != "train":
        raise InputError(f"--mode {config['mode']} needs --checkpoint")
    path = checkpoint_path(config)
    if path is None:
        return {}
    if not Path(path).is_file():
        raise InputError(f"--checkpoint {path} does not exist")
    try:
        checkpoint = read_checkpoint(path, mmap=True)
    except InputError as error:
        raise InputError(f"--checkpoint {error}") from error
    if ours:
        settings = {key: value for key, value in config["model"].items() if key != "name"}
        check_fit(
            f"--checkpoint {path}", checkpoint["state_dict"], SphericalChannelNetwork(**settings).state_dict()
        )
    if "normalizers" not in checkpoint:
        raise InputError(f"--checkpoint {path} is not a checkpoint of fairchem: it has no 'normalizers'")
    return checkpoint
