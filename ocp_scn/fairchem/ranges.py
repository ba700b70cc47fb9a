"""Numbers of a configuration that are passed on as they are: their types and ranges, for both lines."""

from __future__ import annotations

import math
from typing import Any

from ocp_scn.errors import InputError, shown


def whole(name: str, value: Any, low: int = 1) -> None:
    """Check a count.

    Raises:
        InputError: for what is no integer, or one below ``low``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{name}={shown(value)}; expected an integer of at least {low}")


def above_zero(name: str, value: Any) -> None:
    """Check a number that has to be above 0, such as a learning rate.

    Raises:
        InputError: for another one, or what is no finite number.
    """
    if not _is_number(value) or value <= 0:
        raise InputError(f"{name}={shown(value)}; expected a number above 0")


def not_negative(name: str, value: Any) -> None:
    """Check a number that has to be at least 0, such as a coefficient.

    Raises:
        InputError: for another one, or what is no finite number.
    """
    if not _is_number(value) or value < 0:
        raise InputError(f"{name}={shown(value)}; expected a number of at least 0")


def decay(name: str, value: Any) -> None:
    """Check the decay of averaged weights.

    Raises:
        InputError: for what is no float from 0 to below 1; fairchem fails for integers.
    """
    if not isinstance(value, float) or not 0 <= value < 1:
        raise InputError(f"{name}={shown(value)}; expected a float from 0.0 to below 1, such as 0.999")


def milestones(name: str, value: Any) -> None:
    """Check the steps of a schedule.

    Raises:
        InputError: for what is no list of integers from 1 on, in their order.
    """
    if not isinstance(value, list):
        raise InputError(f"{name}={shown(value)}; expected a list of steps")
    for step in value:
        whole(f"{name} has a step", step)
    if sorted(value) != value:
        raise InputError(f"{name}={shown(value)}; expected steps in their order")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
