"""Look at a run's configuration, data and checkpoint before fairchem starts anything.

Each function raises :class:`InputError` with one line that names what was found.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import torch
from fairchem.core.common.registry import registry
from fairchem.core.modules.normalization.element_references import create_element_references

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError, UnreadableError, cause
from ocp_scn.fairchem.files import open_lmdb
from ocp_scn.fairchem.v1.folders import run_folder
from ocp_scn.fairchem.v1.loading import read_checkpoint
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.fairchem.v1.normalization import check_derivatives, configured_scales, float_coefficients
from ocp_scn.fairchem.v1.registration import NAMES
from ocp_scn.fairchem.v1.relaxations import OPTIMIZER_KEYS, relaxation_settings, system_name
from ocp_scn.predictions import file_name, structure_name

# What reading ends with of what is no data set, sample or checkpoint, or of classes that are not here.
_UNREADABLE: tuple[type[Exception], ...] = (lmdb.Error, pickle.UnpicklingError, AssertionError, TypeError)
_UNREADABLE += (EOFError, AttributeError, KeyError, RuntimeError, ValueError, ImportError)
# The data set that each mode cannot do without.
_NEEDED_SPLIT = {"train": "train", "validate": "val", "predict": "test", "run-relaxations": "relax"}


def check_run(config: Mapping[str, Any]) -> None:
    """Check a configuration as fairchem's ``build_config`` returns it."""
    model = config.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise InputError(f"configuration has model={model!r}; expected a section with a name, such as 'scn'")
    ours = model["name"] in NAMES
    if ours:
        check_model(model)
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
    targets = list(config.get("outputs", {})) if mode in ("train", "validate") else []
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
        _check_schedule(config, sizes["train"])
        check_references(references, list(config.get("outputs", {})))
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


def check_model(settings: Mapping[str, Any]) -> None:
    """Check the ``model`` section of a configuration that names this package's model."""
    SCNConfig.from_settings({key: value for key, value in settings.items() if key != "name"})


def check_normalizers(config: Mapping[str, Any]) -> None:
    """Check the numbers that a configuration has for normalizers and losses.

    Those of forces and stress that are derivatives have to be the energy's. The trainer checks that
    where they are fitted or come from files or a checkpoint.
    """
    float_coefficients(config.get("loss_functions") or [])
    transforms = _splits(config.get("dataset")).get("train", {}).get("transforms") or {}
    scales = configured_scales(transforms.get("normalizer") or {})
    derived = config["model"]["name"] in NAMES and not config["model"].get("direct_forces", True)
    if derived and scales is not None and _checkpoint_path(config) is None:
        check_derivatives(config.get("outputs") or {}, scales)


def check_references(references: Mapping[str, Any], outputs: list[str]) -> None:
    """Check the section ``element_references``: its targets, and the files that it names."""
    name = "dataset.train.transforms.element_references"
    for target, settings in references.items():
        if target not in ("fit", "file", *outputs):
            raise InputError(f"{name} has {target!r}; expected {', '.join(outputs)}, fit or file")
        if target in outputs:
            try:
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


def predicted_name(sample: Any) -> str:
    """Return a sample's id in the file of predictions."""
    fid = sample.fid if "fid" in sample else None
    return structure_name(system_name(sample), fid.item() if isinstance(fid, torch.Tensor) else fid)


def relaxed_name(sample: Any) -> str:
    """Return a sample's id in the file of relaxed structures, which also names the trajectory."""
    name = system_name(sample)
    file_name(name)
    return name


def check_samples(name: str, settings: Mapping[str, Any], id_name: str, id_of: Callable[[Any], str]) -> None:
    """Check that every sample can be read and has an id, and that none has that of another.

    Of two results with one id only one would be kept.

    Args:
        name: of the section of the configuration.
        settings: the section.
        id_name: what the id is called in messages.
        id_of: returns a sample's id.
    """
    source = f"{name}.src={settings['src']!r}"
    data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
    first: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for index in range(len(data_set)):
        try:
            sample = data_set[index]
            kinds = kinds or _id_kinds(sample)
            _check_kinds(source, index, _id_kinds(sample), kinds)
            check_fixed(source, index, sample)
            found = id_of(sample)
        except InputError:
            raise
        except _UNREADABLE as error:
            raise InputError(f"{source}: sample {index} cannot be read: {cause(error)}") from error
        if found in first:
            raise InputError(
                f"{source}: samples {first[found]} and {index} both have {id_name} {found!r}; "
                "results need distinct ones"
            )
        first[found] = index


def _id_kinds(sample: Any) -> dict[str, str]:
    """Return the types of a sample's ``sid`` and ``fid``, of those that it has."""
    return {name: type(sample[name]).__name__ for name in ("sid", "fid") if name in sample}


def _check_kinds(source: str, index: int, kinds: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if kinds != expected:
        raise InputError(
            f"{source}: sample {index} has ids of {kinds}, sample 0 of {expected}; "
            "fairchem makes no batch of both"
        )


def check_fixed(source: str, index: int, sample: Any) -> None:
    """Check that a sample's ``fixed``, if it has any, is a tensor of an entry an atom, as fairchem needs."""
    if "fixed" not in sample:
        return
    shape, expected = getattr(sample["fixed"], "shape", None), (int(sample["natoms"]),)
    if not isinstance(sample["fixed"], torch.Tensor) or shape != expected:
        found = f"{type(sample['fixed']).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"
        raise InputError(
            f"{source}: sample {index} has a fixed that is a {found}; expected a Tensor of shape {expected} "
            "(python -m ocp_scn.data convert makes it one)"
        )


def check_data_set(
    name: str, settings: Mapping[str, Any], keys: Sequence[str], targets: Sequence[str] = ()
) -> int | None:
    """Check a data set, for ``keys`` in its first sample and ``targets`` in any; return its size.

    Other formats than LMDB are left to fairchem: their size is None.
    """
    sources = settings["src"] if isinstance(settings["src"], list) else [settings["src"]]
    if not _check_sources(name, list(map(Path, sources)), settings.get("format", "lmdb")):
        return None
    try:
        for source in map(Path, sources):
            for path in source.glob("*.lmdb") if source.is_dir() else [source]:
                open_lmdb(path).close()
        data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
        size = len(data_set)
        sample = data_set[0] if size else {}
    except UnreadableError as error:
        raise InputError(f"{name}.src: {error}") from error
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name}.src={settings['src']!r} cannot be read: {error}") from error
    if not size:
        raise InputError(f"{name}.src={settings['src']!r} has no sample")
    missing = [key for key in [*keys, "pos", "cell", "natoms", "atomic_numbers"] if key not in sample]
    if missing:
        raise InputError(
            f"{name}.src={settings['src']!r}: sample 0 has no {missing[0]!r}; "
            f"it has {', '.join(sorted(sample.keys()))}"
        )
    check_fixed(f"{name}.src={settings['src']!r}", 0, sample)
    for target in targets:
        if not any(target in sample for sample in data_set):
            raise InputError(
                f"{name}.src={settings['src']!r}: no sample has {target!r}; "
                f"sample 0 has {', '.join(sorted(sample.keys()))}"
            )
    return size


def _check_sources(name: str, sources: Sequence[Path], kind: str) -> bool:
    """Check that a data set's files are there; return whether they are LMDB files."""
    for source in sources:
        if not source.exists():
            raise InputError(f"{name}.src={str(source)!r} does not exist")
        if "lmdb" not in kind:
            return False
        if source.is_dir() and not list(source.glob("*.lmdb")):
            raise InputError(f"{name}.src={str(source)!r} has no *.lmdb file")
    return True


def check_fits(settings: Mapping[str, Any]) -> None:
    """Check that every training sample has what fairchem fits normalizers and references to."""
    transforms = settings.get("transforms") or {}
    for key in ("normalizer", "element_references"):
        for target in ((transforms.get(key) or {}).get("fit") or {}).get("targets", []):
            data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
            lacking = next((index for index, sample in enumerate(data_set) if target not in sample), None)
            if lacking is not None:
                raise InputError(
                    f"dataset.train.transforms.{key}.fit: sample {lacking} has no {target!r}; "
                    "expected one in every sample, or numbers in place of fit"
                )


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
    early = [step for step in optim.get("lr_milestones", []) if step < 100]
    if early:
        raise InputError(f"optim.lr_milestones has {early[0]}; expected steps, at least 100 (not epochs)")
    eval_every = optim.get("eval_every")
    if size is None or eval_every is None or "checkpoint_every" in optim:
        return
    steps = math.ceil(size / (optim.get("batch_size", 1) * config.get("world_size", 1))) * optim["max_epochs"]
    if steps < eval_every:
        raise InputError(
            f"the training ends after {steps} steps, before optim.eval_every={eval_every}: "
            "nothing would be saved"
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


def _check_checkpoint(config: Mapping[str, Any], ours: bool) -> Mapping[str, Any]:
    """Check the checkpoint that a run starts from, if there is one, and return it."""
    if config.get("checkpoint") is None and config["mode"] != "train":
        raise InputError(f"--mode {config['mode']} needs --checkpoint")
    path = _checkpoint_path(config)
    if path is None:
        return {}
    if not Path(path).is_file():
        raise InputError(f"--checkpoint {path} does not exist")
    try:
        checkpoint = read_checkpoint(path, mmap=True)
        weights = checkpoint["state_dict"]
    except InputError as error:
        raise InputError(f"--checkpoint {error}") from error
    except _UNREADABLE as error:
        raise InputError(f"--checkpoint {path} is not a checkpoint of fairchem: {error}") from error
    if ours:
        settings = {key: value for key, value in config["model"].items() if key != "name"}
        check_weights(path, weights, SphericalChannelNetwork(**settings).state_dict())
    return checkpoint


def _checkpoint_path(config: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a run begins with; a training goes on from the one of its own name."""
    path: str | None = config.get("checkpoint")
    if path is None and config.get("timestamp_id"):
        own = run_folder(config["run_dir"], config["timestamp_id"]) / "checkpoint.pt"
        path = str(own) if own.is_file() else None
    return path


def check_weights(path: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Check that a checkpoint's weights are those of a model with the configured settings."""
    found = {name.removeprefix("module.").removeprefix("module."): value for name, value in found.items()}
    if "sphere_embedding.weight" not in found:
        raise InputError(
            f"--checkpoint {path} is of another model: its first weight is {next(iter(found), None)!r}"
        )
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
