"""The end of a training at a number that is not finite, on every rank."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from fairchem.core.common import distutils
from torch import Tensor

from ocp_scn.errors import InputError
from ocp_scn.predictions import structure_name

_NAMED = 32  # systems of a batch in a message


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
