"""Data that is loaded in processes of its own (``optim.num_workers``), and checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.datasets import LmdbDataset
from torch.utils.data import Subset, get_worker_info

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import of_other_line

# What a checkpoint of fairchem-core 2 is an object of, and this line lacks.
MODULE_OF_FAIRCHEM2 = "fairchem.core.units"
# Handles from before the fork: to close one here would be to use it.
_inherited: list[Any] = []


def reopen_databases(worker: int) -> None:
    """Open the LMDB files of a process that loads data anew, in that process.

    An open LMDB does not survive a fork: with py-lmdb from 1.7 on, the process crashes.
    """
    info = get_worker_info()
    data_set = info.dataset if info is not None else None
    while isinstance(data_set, Subset):
        data_set = data_set.dataset
    if not isinstance(data_set, LmdbDataset):
        return
    if data_set.path.is_file():
        _inherited.append(data_set.env)
        data_set.env = data_set.connect_db(data_set.path)
    else:
        _inherited.extend(data_set.envs)
        data_set.envs = [data_set.connect_db(path) for path in sorted(data_set.path.glob("*.lmdb"))]


def read_checkpoint(path: str, device: Any = "cpu", **options: Any) -> Any:
    """Return what a file has that torch wrote.

    Raises:
        InputError: for a checkpoint of fairchem-core 2.
    """
    try:
        return torch.load(path, map_location=device, weights_only=False, **options)
    except ModuleNotFoundError as error:
        if error.name != MODULE_OF_FAIRCHEM2:
            raise
        raise InputError(of_other_line(2, path)) from error
