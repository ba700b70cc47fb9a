"""The numbers that targets are normalised by, for both lines of fairchem: value = output × rmsd + mean."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ocp_scn.errors import InputError

DERIVATIVES = ("forces", "stress")


class Scale(NamedTuple):
    """Mean and rmsd of a target in its unit, rounded to float32: two are compared as trainings apply them."""

    mean: np.float32
    rmsd: np.float32

    def __str__(self) -> str:
        return f"mean {self.mean!s} and rmsd {self.rmsd!s}"  # the shortest digits that float32 has


IDENTITY = Scale(np.float32(0), np.float32(1))


def scale_of(normalizer: Any) -> Scale:
    """Return the scale of one of fairchem's normalizers."""
    return Scale(np.float32(float(normalizer.mean)), np.float32(float(normalizer.rmsd)))


def check_derivative(name: str, found: Scale, energy: Scale) -> None:
    """Check that a derivative of the energy is normalised as the energy is, without its mean.

    Raises:
        InputError: for another scale, by which predictions would not be the derivatives.
    """
    expected = Scale(np.float32(0), energy.rmsd)
    if found != expected:
        raise InputError(
            f"{name} is a derivative of the energy, but its normalizer has {found}; "
            f"expected {expected}, the energy's scale"
        )


def number(name: str, value: Any) -> float:
    """Return a number of a configuration as a float, be it written ``0``, ``0.0`` or ``"1e-1"``.

    torch makes integers of ``0``, into which a mean of -0.755 is later loaded as 0.

    Raises:
        InputError: for what is no finite number.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{name}={value!r}; expected a number")
    return found


def positive(name: str, value: Any) -> float:
    """Return a number of a configuration that others are divided by.

    Raises:
        InputError: for what is no finite number above 0.
    """
    found = number(name, value)
    if found <= 0:
        raise InputError(f"{name}={value!r}; expected a number above 0")
    return found
