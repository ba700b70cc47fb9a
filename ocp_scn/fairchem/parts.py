"""Parts of a data set that jobs take, and what their results are called; for both lines of fairchem."""

from __future__ import annotations

import numpy as np

from ocp_scn.errors import InputError

RELAXED_FILE, RECORD_FILE = "relaxed_positions.npz", "relaxations.json"


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


def shard_range(size: int, shard: int | None, total: int | None) -> range:
    """Return the samples of a shard, all if neither it nor the number of shards is given.

    Raises:
        InputError: for a shard that a data set of ``size`` samples does not have.
    """
    if shard is None and total is None:
        return range(size)
    bounds = shard_bounds(size, total).tolist()
    if not isinstance(shard, int) or not 0 <= shard < len(bounds) - 1:
        raise InputError(f"shard={shard!r} of total_shards={total}; expected 0 to {len(bounds) - 2}")
    return range(bounds[shard], bounds[shard + 1])
