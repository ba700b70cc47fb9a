"""Normalizers, element references and loss coefficients of fairchem-core 1.10: floats, and known to agree."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fairchem.core.common import distutils

from ocp_scn.errors import InputError
from ocp_scn.fairchem.scales import (
    DERIVATIVES,
    IDENTITY,
    Scale,
    check_derivative,
    number,
    positive,
    scale_of,
)
from ocp_scn.fairchem.v1.labels import LabelledTrainer
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.trained import OLD_TARGETS

log = logging.getLogger(__name__)
_READ_AS = {"mean": number, "rmsd": positive, "stdev": positive}


class NormalizedTrainer(LabelledTrainer):
    """fairchem's trainer, which says what normalises its targets, and refuses wrong scales of derivatives."""

    normalizers: dict[str, Any]
    elementrefs: dict[str, Any]

    def load_references_and_normalizers(self) -> None:
        """Make what the configuration describes, all of it in floats.

        Raises:
            InputError: for numbers that are none, or an rmsd that is not above 0.
        """
        transforms = self.config["dataset"].get("transforms") or {}
        if transforms.get("normalizer"):
            transforms["normalizer"] = float_normalizers(transforms["normalizer"])
        super().load_references_and_normalizers()
        for module in (*self.normalizers.values(), *self.elementrefs.values()):
            _make_floats(module)
        for name, normalizer in self.normalizers.items():
            positive(f"the rmsd of normalizer.{name}", float(normalizer.rmsd))  # of a fit or a file too

    def load_loss(self) -> None:
        """Make the loss functions, with coefficients that are floats.

        Raises:
            InputError: for a coefficient that is no number.
        """
        self.config["loss_functions"] = float_coefficients(self.config["loss_functions"])
        super().load_loss()

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: Any = None, inference_only: bool = False
    ) -> None:
        """Load a checkpoint, which SCNTrainer has read; its normalizers and references prevail, says the log.

        Raises:
            InputError: if the checkpoint's forces or stress would not be the derivatives of its energy.
        """
        scales = {name: scale_of(normalizer) for name, normalizer in self.normalizers.items()}
        references = {name: _references(module) for name, module in self.elementrefs.items()}
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        if distutils.is_master():
            loaded = {OLD_TARGETS.get(name, name) for name in checkpoint["normalizers"]}
            for name, normalizer in self.normalizers.items():
                configured = None if inference_only else scales.get(name, IDENTITY)
                _report_scale(name, scale_of(normalizer), configured, of_checkpoint=name in loaded)
            for name, before in references.items():
                _report_references(name, _references(self.elementrefs[name]), before, checkpoint)
        self._check_derivatives()

    def train(self, disable_eval_tqdm: bool = False) -> None:
        """Train as fairchem does.

        Raises:
            InputError: if forces or stress would not be the derivatives of the energy.
        """
        self._check_derivatives()
        super().train(disable_eval_tqdm)

    def _check_derivatives(self) -> None:
        model = self._unwrapped_model
        if isinstance(model, SphericalChannelNetwork) and not model.config.direct_forces:
            scales = {name: scale_of(normalizer) for name, normalizer in self.normalizers.items()}
            check_derivatives(self.output_targets, scales)


def check_derivatives(outputs: Iterable[str], scales: Mapping[str, Scale]) -> None:
    """Check the scales of the outputs of a model with ``direct_forces: False``.

    Raises:
        InputError: for forces or a stress whose scale is not the energy's.
    """
    names = set(outputs)
    for name in DERIVATIVES:
        if {name, "energy"} <= names:
            found, energy = scales.get(name, IDENTITY), scales.get("energy", IDENTITY)
            check_derivative(f"output {name!r} (direct_forces=False)", found, energy)


def configured_scales(section: Mapping[str, Any]) -> dict[str, Scale] | None:
    """Return the scales that a ``normalizer`` section has as numbers; None if data or files give some.

    Raises:
        InputError: for numbers that are none.
    """
    section = float_normalizers(section)
    if {"fit", "file"} & set(section) or any("file" in values for values in section.values()):
        return None
    return {
        name: Scale(np.float32(values["mean"]), np.float32(values.get("rmsd", values.get("stdev"))))
        for name, values in section.items()
    }


def float_normalizers(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's ``normalizer`` with floats for its numbers.

    Raises:
        InputError: for numbers that are none, or targets that lack one.
    """
    found = dict(section)
    for target, values in section.items():
        if target == "fit":
            found[target] = {
                key: _fitted(key, value) if key in ("targets", "override_values") else value
                for key, value in values.items()
            }
        elif target != "file":
            found[target] = given = _floats(f"normalizer.{target}", values, (*_READ_AS, "file"))
            if "file" not in given and not ("mean" in given and {"rmsd", "stdev"} & set(given)):
                raise InputError(f"normalizer.{target}={values!r}; expected mean and rmsd, or file")
    return found


def float_coefficients(losses: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a configuration's ``loss_functions`` with floats for coefficients.

    Raises:
        InputError: for a coefficient that is no number, or below 0.
    """

    def read(target: str, key: str, value: Any) -> Any:
        if key != "coefficient":
            return value
        found = number(f"loss_functions.{target}.{key}", value)
        if found < 0:
            raise InputError(f"loss_functions.{target}.{key}={value!r}; expected a number of at least 0")
        return found

    return [
        {
            target: {key: read(target, key, value) for key, value in loss.items()}
            for target, loss in entry.items()
        }
        for entry in losses
    ]


def _fitted(key: str, targets: Any) -> Any:
    """Return the targets that are fitted; beside their names may be numbers that are not."""
    if not isinstance(targets, Mapping):
        return targets
    return {
        name: _floats(f"normalizer.fit.{key}.{name}", values, ("mean", "rmsd"))
        if isinstance(values, Mapping)
        else values
        for name, values in targets.items()
    }


def _floats(name: str, values: Any, expected: Sequence[str]) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not set(values) <= set(expected):
        raise InputError(f"{name}={values!r}; expected a section of {', '.join(expected)}")
    return {
        key: _READ_AS[key](f"{name}.{key}", value) if key in _READ_AS else value
        for key, value in values.items()
        if value is not None
    }


def _make_floats(module: torch.nn.Module) -> None:
    """Make floats of a module's integers, from files or a fit, so that what is loaded is not truncated."""
    for name, value in module.named_buffers():
        if not value.is_floating_point():
            setattr(module, name, value.to(torch.get_default_dtype()))


def _references(module: Any) -> torch.Tensor:
    values: torch.Tensor = module.element_references
    return values.detach().clone()


def _report_scale(name: str, used: Scale, configured: Scale | None, *, of_checkpoint: bool) -> None:
    """Log the scale of an output after a checkpoint was loaded; ``configured`` is None where nothing was."""
    line = f"Normalization in use for output {name}: {used}, of the "
    if not of_checkpoint:
        log.warning(f"{line}configuration; the checkpoint has none")
    elif configured is None or configured == used:
        logging.info(f"{line}checkpoint")  # in run.log alone
    else:
        log.warning(f"{line}checkpoint; the configuration has {configured}")


def _report_references(
    name: str, used: torch.Tensor, configured: torch.Tensor, checkpoint: Mapping[str, Any]
) -> None:
    """Log where a configuration's element references are not those of the checkpoint."""
    line = f"Element references in use for output {name} are those of the "
    if name not in (checkpoint.get("elementrefs") or {}):
        log.warning(f"{line}configuration; the checkpoint has none")
    elif not torch.equal(used, configured):
        log.warning(f"{line}checkpoint, which differ from the configuration's")
