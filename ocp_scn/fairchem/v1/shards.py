"""fairchem's LMDB data set, read with care, and parts of it for several jobs."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from fairchem.core.datasets import LmdbDataset

from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.fairchem.files import SizeGuard, open_lmdb, sample_count
from ocp_scn.fairchem.v1.reading import warn_of_trust
from ocp_scn.predictions import shard_range
from ocp_scn.unpickling import TRUST, RefusedError

NAMES = ("lmdb", "single_point_lmdb", "trajectory_lmdb")  # fairchem's for the one data set


class ShardedLmdbDataset(LmdbDataset):
    """fairchem's LMDB data set, whose keys ``shard`` and ``total_shards`` work, and whose files are whole.

    fairchem's own fails with them: it compares ``metadata.npz`` with the size of the shard, and counts a
    sample of a shard once from the data set's start and once from the shard's.

    Raises:
        InputError: for a shard that the data set does not have, files that are cut short or say more than
            they have, and, later, files of another size than at first or samples that name other classes
            than those of arrays and plain values, unless the user trusts them.
    """

    _metadata: Any
    _keys: Any
    _keylen_cumulative: Any

    def __init__(self, config: Mapping[str, Any]) -> None:
        warn_of_trust(config.get("src"))
        self._guards: dict[Path, SizeGuard] = {}
        try:
            super().__init__({key: config[key] for key in config if key not in ("shard", "total_shards")})
        except UnreadableError as error:
            raise _refused(config.get("src"), "its length", error) from error
        shard, total = config.get("shard"), config.get("total_shards")
        if shard is None and total is None:
            return
        kept = shard_range(self.num_samples, shard, total)
        self._keep(kept.start, kept.stop)

    def connect_db(self, lmdb_path: Path | None = None) -> lmdb.Environment:
        """Open a file, again in each process that loads data."""
        path = self.path if lmdb_path is None else lmdb_path
        self._guards.setdefault(path, SizeGuard(path)).check()
        try:
            environment = open_lmdb(path)
            sample_count(path, environment)
        except UnreadableError as error:
            raise InputError(str(error)) from error
        return environment

    def __getitem__(self, idx: int) -> Any:
        sizes = getattr(self, "_keylen_cumulative", None)  # of a folder's files
        list(self._guards.values())[0 if sizes is None else bisect(sizes, idx)].check()
        try:
            return super().__getitem__(idx)
        except UnreadableError as error:
            raise _refused(self.path, f"sample {idx}", error) from error

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: its own handles of the files are opened there."""
        return {name: value for name, value in vars(self).items() if name not in ("env", "envs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        opened = [self.connect_db(path) for path in self._guards]
        if self.path.is_file():
            (self.env,) = opened
        else:
            self.envs = opened

    def __del__(self) -> None:
        """Leave closing to LMDB; fairchem's own fails where a file could not be opened."""

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
    advice = f"; for files that you trust, set {TRUST}=1" if isinstance(error, RefusedError) else ""
    # Of this class itself, by whose name the launcher finds it in what another process says.
    return InputError(f"{source}: {part} cannot be read: {error}{advice}")
