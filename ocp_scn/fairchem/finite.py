"""Labels, losses and weights that are not finite, or too large for any structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ocp_scn.errors import InputError, shown

LARGEST_LABEL = 1e10  # eV, eV/Å, eV/Å³: beyond any structure, and float32 squares it


def check_label(where: str, name: str, value: Any) -> None:
    """Check the numbers of a label; ``where`` names its structure.

    Raises:
        InputError: for what is no numbers, numbers that are not finite or beyond ``LARGEST_LABEL``.
    """
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} has {name}={shown(value)}; expected numbers") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{where} has {name} with numbers that are not finite")
    largest = float(numbers.flat[np.abs(numbers).argmax()]) if numbers.size else 0.0
    if abs(largest) > LARGEST_LABEL:
        raise InputError(f"{where} has {name} with {largest:g}; expected numbers up to {LARGEST_LABEL:g}")


def check_finite_weights(source: str, weights: Mapping[str, Any]) -> None:
    """Check weights; ``source`` begins the message, ``weights`` may have other things than tensors too.

    Raises:
        InputError: for weights of which some numbers are not finite.
    """
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    wrong = [name for name, value in tensors.items() if value.is_floating_point() and not is_finite(value)]
    if wrong:
        raise InputError(
            f"{source} has numbers that are not finite in {len(wrong)} of {len(tensors)} weights, "
            f"{wrong[0]} first"
        )


def is_finite(values: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    return bool(values.isfinite().all())


def nan_unless_finite(values: Tensor) -> Tensor:
    """Return 1 where all ``values`` are finite, NaN elsewhere, without waiting for the device.

    fairchem's losses take 0 for what is not finite. A loss that is multiplied by this has the number and
    the gradient that it should have.
    """
    return 1 + (0 * values.detach()).sum()
