"""Parts of a data set, for predictions and relaxations in several jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from fairchem.core.datasets import LmdbDataset

from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.fairchem.v1.guards import warn_of_trust
from ocp_scn.predictions import shard_range
from ocp_scn.unpickling import TRUST, RefusedError

NAMES = ("lmdb", "single_point_lmdb", "trajectory_lmdb")  # fairchem's for the one data set


class ShardedLmdbDataset(LmdbDataset):
    """fairchem's LMDB data set, whose keys ``shard`` and ``total_shards`` work.

    fairchem's own fails with them: it compares ``metadata.npz`` with the size of the shard, and counts a
    sample of a shard once from the data set's start and once from the shard's.

    Raises:
        InputError: for a shard that the data set does not have, or a sample that names other classes than
            those of arrays and plain values, unless the user trusts it.
    """

    _metadata: Any
    _keys: Any
    _keylen_cumulative: Any

    def __init__(self, config: Mapping[str, Any]) -> None:
        warn_of_trust(config.get("src"))
        try:
            super().__init__({key: config[key] for key in config if key not in ("shard", "total_shards")})
        except UnreadableError as error:
            raise _refused(config.get("src"), "its length", error) from error
        shard, total = config.get("shard"), config.get("total_shards")
        if shard is None and total is None:
            return
        kept = shard_range(self.num_samples, shard, total)
        self._keep(kept.start, kept.stop)

    def __getitem__(self, idx: int) -> Any:
        try:
            return super().__getitem__(idx)
        except UnreadableError as error:
            raise _refused(self.path, f"sample {idx}", error) from error

    def _keep(self, start: int, stop: int) -> None:
        """Leave out all samples but those from ``start`` to ``stop``."""
        self._metadata = {key: values[start:stop] for key, values in self._metadata.items()}
        self.num_samples = stop - start
        if self.path.is_file():
            self._keys = self._keys[start:stop]
            return
        firsts = [0, *self._keylen_cumulative[:-1]]
        self._keys = [
            keys[max(0, start - first) : max(0, stop - first)]
            for keys, first in zip(self._keys, firsts, strict=True)
        ]
        self._keylen_cumulative = np.cumsum([len(keys) for keys in self._keys]).tolist()


def _refused(source: Any, part: str, error: UnreadableError) -> InputError:
    advice = f"; {TRUST}=1 reads files of those whom you trust" if isinstance(error, RefusedError) else ""
    # Of this class itself, by whose name the launcher finds it in what another process says.
    return InputError(f"{source}: {part} cannot be read: {error}{advice}")
