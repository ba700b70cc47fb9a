"""Trainings that begin with the weights of a checkpoint (``--finetune``), and models that it describes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common import distutils
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.modules.normalization.element_references import create_element_references
from fairchem.core.modules.normalization.normalizer import Normalizer

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.finite import check_finite_weights
from ocp_scn.fairchem.scales import DERIVATIVES, IDENTITY, Scale, scale_of
from ocp_scn.fairchem.v1.folders import checkpoint_path
from ocp_scn.fairchem.v1.loading import read_checkpoint
from ocp_scn.fairchem.v1.sections import check_sections
from ocp_scn.trained import (
    NAMES,
    Trained,
    check_settings,
    copy_weights,
    from_fairchem1,
    settings_of_fairchem1,
    without_forces,
)

log = logging.getLogger(__name__)

KEY = "finetune"  # below ``task``, from where it goes to every rank, into jobs and checkpoints


def finetuned_from(config: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a configuration of a training begins with, or None."""
    task = config.get("task")
    return task.get(KEY) if config.get("mode") == "train" and isinstance(task, Mapping) else None


def with_checkpoint(config: dict[str, Any], finetune: str | None) -> dict[str, Any]:
    """Return a configuration with what ``--finetune``, or else ``--checkpoint``, says of it.

    A section ``model`` without a name gets the settings of the checkpoint that the run goes on from or
    begins with.

    Raises:
        InputError: for ``--finetune`` in another mode or beside ``--checkpoint``, a file that is none or of
            other settings, or a run of that name that began otherwise.
    """
    if finetune is not None:
        if config["mode"] != "train":
            raise InputError(f"--finetune {finetune} begins a training, and --mode is {config['mode']}")
        check_sections(config)
        config = {**config, "task": {**(config.get("task") or {}), KEY: finetune}}
    finetune = finetuned_from(config)
    if finetune is not None:
        if not isinstance(finetune, str):
            raise InputError(f"task.{KEY}={finetune!r}; expected the path of a checkpoint")
        if config["checkpoint"] is not None:
            raise InputError(
                f"--finetune {finetune} begins a training, and --checkpoint {config['checkpoint']} goes on "
                "with one; expected one of them"
            )
        finetune = str(Path(finetune).absolute())
        config = {**config, "task": {**config["task"], KEY: finetune}}
    path = checkpoint_path(config)
    if path is not None and finetune is not None:
        _check_beginning(config, path, finetune)
    elif finetune is not None:
        return {**config, "model": _model(config.get("model"), read(finetune), finetune)}
    model = config.get("model")
    if path is not None and _is_incomplete(model):
        found = _read(path, "--checkpoint")
        try:
            settings = settings_of_fairchem1(found["config"])
        except InputError as error:
            raise InputError(f"--checkpoint {path}: {error}") from error
        return {**config, "model": {"name": NAMES[1], **settings, **(model or {})}}
    return config


def read(path: str) -> Trained:
    """Return what a checkpoint has.

    Raises:
        InputError: for a file that is no checkpoint of this model, or averaged weights that are not finite.
    """
    checkpoint = _read(path, "--finetune")
    try:
        trained = from_fairchem1(checkpoint)
        check_finite_weights("its average", trained.averaged)
    except InputError as error:
        raise InputError(f"--finetune {path}: {error}") from error
    return trained


def _read(path: str, option: str) -> Any:
    if not Path(path).is_file():
        raise InputError(f"{option} {path} does not exist")
    try:
        return read_checkpoint(path, needed=("state_dict", "config"), mmap=True)
    except InputError as error:
        raise InputError(f"{option} {error}") from error


def begin(trainer: Any, path: str) -> Trained:
    """Give a trainer the weights of a checkpoint, and the scales that its configuration lacks; return it.

    The averaged weights are taken, where there are some. Everything else of a training begins anew.

    Raises:
        InputError: as `read` does.
    """
    trained = read(path)
    copy_weights(trainer._unwrapped_model, trained.averaged)
    if trainer.ema:
        trainer.ema = ExponentialMovingAverage(trainer.model.parameters(), trainer.ema.decay)
    own_references = "energy" in trainer.elementrefs
    lines = [f"The training begins with the weights of {path}", _take_references(trainer, trained)]
    lines += _take_normalizers(trainer, trained, own_references=own_references)
    if distutils.is_master():
        for line in lines:
            log.info(line)
    return trained


def _take_references(trainer: Any, trained: Trained) -> str:
    """Take the checkpoint's references where the configuration has none; return what holds and why."""
    line = "Element references in use for output energy are those of the"
    if "energy" in trainer.elementrefs:
        other = "none" if trained.references is None else "some too, which are not used"
        return f"{line} configuration, which has some; the checkpoint has {other}"
    if trained.references is None:
        return "No element references are in use: neither the configuration nor the checkpoint has some"
    state = {"element_references": torch.tensor(trained.references, dtype=torch.get_default_dtype())}
    trainer.elementrefs["energy"] = create_element_references(state_dict=state).to(trainer.device)
    return f"{line} checkpoint; the configuration has none"


def _take_normalizers(trainer: Any, trained: Trained, *, own_references: bool) -> list[str]:
    """Take the checkpoint's normalizers where the configuration has none; return what holds and why."""
    lines = []
    for name in sorted(trainer.output_targets, key=lambda name: name in DERIVATIVES):  # the energy first
        found = trained.normalizers.get(name)
        before = None if found is None else Scale(*map(np.float32, found))
        if name in trainer.normalizers:
            used = scale_of(trainer.normalizers[name])
            why = f"of the configuration, which has some; the checkpoint has {before or 'none'}"
        elif name in DERIVATIVES and not trained.config.direct_forces:
            energy = scale_of(trainer.normalizers["energy"]) if "energy" in trainer.normalizers else IDENTITY
            used, why = energy._replace(mean=np.float32(0)), "of the energy, whose derivative it is"
        elif before is None:
            used, why = IDENTITY, "as neither the configuration nor the checkpoint has some"
        elif name == "energy" and own_references and before.mean != 0:
            used = before._replace(mean=np.float32(0))
            why = f"of the checkpoint, without its mean of {before.mean}: the configuration has references"
        else:
            used, why = before, "of the checkpoint; the configuration has none"
        if name not in trainer.normalizers:
            normalizer = Normalizer(mean=float(used.mean), rmsd=float(used.rmsd))
            trainer.normalizers[name] = normalizer.to(trainer.device)
        lines.append(f"Normalization in use for output {name}: {used}, {why}")
    return lines


def _check_beginning(config: Mapping[str, Any], path: str, finetune: str) -> None:
    """Check that the run which a training goes on with began with the same checkpoint."""
    task = read_checkpoint(path, mmap=True).get("config", {}).get("task")
    began = task.get(KEY) if isinstance(task, Mapping) else None
    if began != finetune:
        raise InputError(
            f"--timestamp-id {config['timestamp_id']} goes on from {path}, which began "
            f"{'without --finetune' if began is None else f'with --finetune {began}'}, not {finetune}; "
            "expected the same, or a new name"
        )


def _model(section: Any, trained: Trained, path: str) -> Any:
    """Return the section ``model`` of a training that begins with a checkpoint.

    Raises:
        InputError: for a section of another model, or other settings.
    """
    settings = trained.settings
    if isinstance(section, Mapping) and section.get("regress_forces") is False:
        settings = without_forces(settings)
    if _is_incomplete(section):
        section = {"name": NAMES[1], **settings, **(section or {})}
    if not isinstance(section, Mapping):
        return section  # which is refused with the rest of the configuration
    if section["name"] not in NAMES:
        raise InputError(f"--finetune {path} is of {NAMES[1]}, and model.name is {section['name']!r}")
    wanted = SCNConfig.from_settings({key: value for key, value in section.items() if key != "name"})
    check_settings(SCNConfig.from_settings(settings), wanted, f"--finetune {path}")
    return section


def _is_incomplete(section: Any) -> bool:
    return section is None or (isinstance(section, Mapping) and "name" not in section)
