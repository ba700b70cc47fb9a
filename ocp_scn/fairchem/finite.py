"""What ends a run instead of spreading: labels, losses, gradients and weights that are not finite."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from fairchem.core.common import distutils
from torch import Tensor

from ocp_scn.errors import InputError
from ocp_scn.predictions import structure_name

LARGEST_LABEL = 1e10  # eV, eV/Å, eV/Å³: beyond any structure, and float32 squares it
_NAMED = 32  # systems of a batch in a message


def check_label(where: str, name: str, value: Any) -> None:
    """Check the numbers of a label; ``where`` names its structure.

    Raises:
        InputError: for numbers that are not finite or beyond ``LARGEST_LABEL``.
    """
    numbers = np.asarray(value, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InputError(f"{where} has {name} with numbers that are not finite")
    largest = float(numbers.flat[np.abs(numbers).argmax()]) if numbers.size else 0.0
    if abs(largest) > LARGEST_LABEL:
        raise InputError(f"{where} has {name} with {largest:g}; expected numbers up to {LARGEST_LABEL:g}")


def check_weights(source: str, weights: Mapping[str, Any]) -> None:
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


def names_of(batch: Any) -> list[str]:
    """Return the names of a batch's systems, of those that have any."""
    sids, fids = (_listed(batch, key) for key in ("sid", "fid"))
    return [structure_name(sid, fid) for sid, fid in zip(sids, fids or [None] * len(sids), strict=True)]


def _listed(batch: Any, key: str) -> list[Any]:
    values = batch[key] if key in batch else ()  # noqa: SIM401  # not all of fairchem's batches have get
    return values.flatten().tolist() if isinstance(values, Tensor) else list(values)


def stop_training(what: str, step: int, batch: Any, checkpoint: str, *, mine: bool = True) -> None:
    """End a training at a step, on every rank with the same message.

    Args:
        what: that is not finite.
        step: the step's number.
        batch: this rank's batch.
        checkpoint: says which checkpoint is the last one.
        mine: whether this rank's batch is at fault; where none is, all are named.

    Raises:
        InputError: always.
    """
    parts = distutils.gather_objects((mine, names_of(batch)))
    lines = [_stop_line(what, step, parts, checkpoint) if distutils.is_master() else ""]
    distutils.broadcast_object_list(lines, src=0)
    raise InputError(lines[0])


def _stop_line(what: str, step: int, parts: Sequence[tuple[bool, list[str]]], checkpoint: str) -> str:
    chosen = [names for mine, names in parts if mine] or [names for _, names in parts]
    faulty = itertools.chain.from_iterable(chosen)
    return (
        f"step {step}: the {what} is not finite, in a batch of {shortened(faulty)}; "
        f"{checkpoint}; look at these structures and their labels, or lower the learning rate"
    )


def shortened(names: Iterable[str]) -> str:
    """Return the names of systems for a message, not too many of them."""
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"systems {', '.join(found[:_NAMED])}{more}"
