"""Element references from a file; the configuration that checkpoints get has their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fairchem.core.modules.normalization.element_references import (
    ElementReferences,
    create_element_references,
)

from ocp_scn.errors import InputError
from ocp_scn.npz import check_npz

_TARGET = "ocp_scn.fairchem.v2.element_references"
_VALUES = "fairchem.core.modules.normalization.element_references.ElementReferences"


def element_references(file: str | None) -> ElementReferences | None:
    """Return the references of a task, from an npz file with ``coeff`` (eV by atomic number); None without.

    Raises:
        InputError: for a file that has none.
    """
    if file is None:
        return None
    try:
        check_npz(file)
        found = create_element_references(file=file).element_references
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"energy_references={file!r} cannot be read: {error}") from error
    return ElementReferences(found.to(torch.float64).flatten())


def task_config(references: Any) -> dict[str, Any]:
    """Return what a task's configuration says of references: numbers in eV by atomic number."""
    values = np.asarray(references, dtype=np.float64).ravel().tolist()
    return {
        "_target_": _VALUES,
        "element_references": {"_target_": "torch.DoubleTensor", "_args_": [values]},
    }


def with_values(config: Any) -> Any:
    """Return a plain configuration in which values stand for each file of references."""
    if isinstance(config, list):
        return [with_values(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("_target_") != _TARGET:
        return {key: with_values(value) for key, value in config.items()}
    found = element_references(config["file"])
    return None if found is None else task_config(found.element_references)
