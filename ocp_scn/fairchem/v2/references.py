"""Element references of a task, from a file or as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairchem.core.modules.normalization.element_references import (
    ElementReferences,
    create_element_references,
)

from ocp_scn.errors import InputError
from ocp_scn.npz import check_npz

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


def references_of(values: Sequence[float] | None) -> ElementReferences | None:
    """Return the references with these numbers, eV by atomic number; None without."""
    return None if values is None else ElementReferences(torch.tensor(values, dtype=torch.float64))


def task_config(references: Any) -> dict[str, Any]:
    """Return what a task's configuration says of references: numbers in eV by atomic number."""
    values = np.asarray(references, dtype=np.float64).ravel().tolist()
    return {
        "_target_": _VALUES,
        "element_references": {"_target_": "torch.DoubleTensor", "_args_": [values]},
    }
