"""Data that is loaded in processes of its own (``optim.num_workers``), and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fairchem.core.datasets import LmdbDataset
from torch import Tensor
from torch.utils.data import Subset, get_worker_info

from ocp_scn import torch_files
from ocp_scn.checkpoint_sections import check_sections
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import of_other_line

# What a checkpoint of fairchem-core 2 is an object of, and this line lacks.
_MODULE_OF_FAIRCHEM2 = "fairchem.core.units"
# Classes in files of normalizers and references, beside arrays and plain values.
_NORMALIZATION = "fairchem.core.modules.normalization"
CLASSES = {
    (f"{_NORMALIZATION}.normalizer", "Normalizer"),
    (f"{_NORMALIZATION}.element_references", "LinearReferences"),
}
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


def read_checkpoint(
    path: str | Path, device: Any = "cpu", *, needed: Iterable[str] = ("state_dict",), mmap: bool = False
) -> Any:
    """Return a checkpoint of fairchem-core 1.

    Args:
        path: the file.
        device: where its tensors go.
        needed: sections that it has to have.
        mmap: leave tensors in the file until they are used.

    Raises:
        InputError: for a file that is none, a checkpoint of fairchem-core 2, or sections of another kind.
    """
    try:
        checkpoint = torch_files.read(path, device, more=CLASSES, mmap=mmap)
    except InputError as error:
        named = getattr(error.__cause__, "module", "") or getattr(error.__cause__, "name", "")
        if not str(named).startswith(_MODULE_OF_FAIRCHEM2):
            raise
        raise InputError(of_other_line(2, path)) from error
    try:
        check_sections(checkpoint, needed)
    except InputError as error:
        raise InputError(f"{path} is not a checkpoint of fairchem: {error}") from error
    return checkpoint


def check_fit(source: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of a checkpoint's weights with a model's; ``source`` begins the message.

    Raises:
        InputError: for the first one that differs.
    """
    found = {name.removeprefix("module.").removeprefix("module."): value for name, value in found.items()}
    if "sphere_embedding.weight" not in found:
        raise InputError(f"{source} is of another model: its first weight is {next(iter(found), None)!r}")
    for name, value in expected.items():
        if name not in found:
            raise InputError(f"{source} does not fit the model's settings: it has no {name}")
        if found[name].shape != value.shape:
            raise InputError(
                f"{source} does not fit the model's settings: {name} has the shape "
                f"{tuple(found[name].shape)}, the model {tuple(value.shape)}"
            )
    surplus = next((name for name in found if name not in expected), None)
    if surplus is not None:
        raise InputError(f"{source} does not fit the model's settings: the model has no {surplus}")
