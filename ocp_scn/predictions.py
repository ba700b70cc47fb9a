"""What predictions have in common in both lines of fairchem: names of structures, batches, shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from ocp_scn.errors import InputError

_LONGEST_NAME = 240  # of the 255 that file systems take
Item = TypeVar("Item")


def structure_name(sid: Any, fid: Any = None) -> str:
    """Return a structure's name in files of predictions: SID_FID, or SID without a frame number."""
    return str(sid) if fid is None else f"{sid}_{fid}"


def file_name(name: str) -> str:
    """Return a structure's name as that of a file in a folder: percent-encoded, as URLs are.

    Raises:
        InputError: for a name that no file can have, with room for a suffix.
    """
    found = quote(name, safe="")
    if not 1 <= len(found) <= _LONGEST_NAME:
        raise InputError(
            f"id {name[:40]!r} has {len(found)} characters as a file's name; expected 1 to {_LONGEST_NAME}"
        )
    return found


def batches(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Yield items in order, in lists whose sizes add up to ``most`` at most, or of one item."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and total + size(item) > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


def shard_range(size: int, shard: int | None, total: int | None) -> range:
    """Return the samples of a shard, of ``size`` samples in ``total`` shards; all if both are None.

    Raises:
        InputError: for a shard that there is not.
    """
    if shard is None and total is None:
        return range(size)
    bounds = shard_bounds(size, total)
    if not isinstance(shard, int) or not 0 <= shard < len(bounds) - 1:
        raise InputError(f"shard={shard!r} of total_shards={total}; expected 0 to {len(bounds) - 2}")
    return range(int(bounds[shard]), int(bounds[shard + 1]))


def shard_bounds(size: int, total: int | None) -> np.ndarray:
    """Return where shards of ``size`` samples begin and end, (total + 1,); sizes differ by at most one.

    Raises:
        InputError: unless ``total`` is 1 to ``size``.
    """
    if not isinstance(total, int) or not 1 <= total <= size:
        raise InputError(f"total_shards={total!r} of {size} samples; expected 1 to {size}")
    small, larger = divmod(size, total)
    sizes = np.full(total, small) + (np.arange(total) < larger)
    return np.concatenate([[0], np.cumsum(sizes)])
