"""Samples of fairchem-core 1's LMDB files, read without fairchem 1, PyTorch Geometric, or trust.

The files are pickles, and a pickle may run any program when it is read. Here only arrays, tensors and
containers are rebuilt, and PyTorch Geometric's graphs as plain stand-ins; anything else is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms

from ocp_scn.data.fixed import fixed_mask
from ocp_scn.errors import UnreadableError, cause, refuse
from ocp_scn.fairchem.files import open_lmdb, sample_count

SUFFIX = ".lmdb"
# Names of targets before 2023, and what is rebuilt from the structure or not needed.
_RENAMED = {"y": "energy", "force": "forces"}
_STRUCTURE = {"pos", "cell", "atomic_numbers", "natoms", "tags", "fixed", "pbc"}
_GRAPH = {"edge_index", "edge_attr", "edge_weight", "edge_distance_vec", "cell_offsets", "distances"}
_GRAPH |= {"cell_offset_distances", "neighbors", "nedges", "ptr", "batch", "num_nodes"}
# Strides of 0 repeat numbers, and every copy of such a tensor takes memory.
_MOST_REPEATED = 10_000_000
# What damaged or foreign pickles end with.
_ERRORS: tuple[type[Exception], ...] = (pickle.UnpicklingError, LookupError, AttributeError, TypeError)
_ERRORS += (ValueError, EOFError, RuntimeError, OverflowError, MemoryError, lmdb.Error)

_MULTIARRAY = import_module("numpy.core.multiarray" if np.__version__ < "2" else "numpy._core.multiarray")


class _StandIn:
    """An object of PyTorch Geometric: the attributes that its pickle has."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


class _Tensor:
    """A tensor that is rebuilt when its numbers are asked for, which takes time."""

    def __init__(self, storage: bytes, *layout: Any) -> None:
        self.storage, self.layout = storage, layout

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        storage = torch.load(io.BytesIO(self.storage), weights_only=True)
        found = torch._utils._rebuild_tensor_v2(storage, *self.layout)
        if found.numel() > max(len(storage), _MOST_REPEATED):
            raise ValueError(f"a tensor has {found.numel()} numbers, and is stored as {len(storage)}")
        return found.numpy()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch.storage", "_load_from_bytes"): bytes,
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): dict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch_geometric."):
            return _StandIn
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            return getattr(_MULTIARRAY, name)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refused {module}.{name}: not something that a sample consists of")
        return _ALLOWED[module, name]


def read_samples(
    path: Path, unreadable: Callable[[UnreadableError], None] = refuse
) -> Iterator[tuple[int, Atoms, dict[str, Any]]]:
    """Yield each sample's position, structure, and ``sid``, ``fid`` and targets, in order.

    Labels of before 2023 get their names of today (``energy``, ``forces``).

    Args:
        path: the file.
        unreadable: is called for a sample that is none.

    Raises:
        UnreadableError: for a file that is not such a data set.
    """
    for index, sample in _read_attributes(path, None, unreadable):
        try:
            found = index, _structure(sample), _properties(sample)
        except _ERRORS as error:
            unreadable(_no_sample(path, index, error))
            continue
        yield found


def read_attributes(path: Path, names: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield what each sample has but its edges, in order: arrays, numbers and texts by their names.

    Args:
        path: the file.
        names: what is wanted, all if None; a few take less time.

    Raises:
        UnreadableError: for a file that is not such a data set.
    """
    return (sample for _, sample in _read_attributes(path, names, refuse))


def _read_attributes(
    path: Path, names: Collection[str] | None, unreadable: Callable[[UnreadableError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    environment = open_lmdb(path)
    with environment, environment.begin() as transaction:
        for index in range(sample_count(path, environment)):
            try:
                data = transaction.get(str(index).encode("ascii"))
                sample = _attributes(_Unpickler(io.BytesIO(data)).load())
                wanted = (set(sample) if names is None else set(names)) - _GRAPH
                found = {name: _plain(value) for name, value in sample.items() if name in wanted}
            except _ERRORS as error:
                unreadable(_no_sample(path, index, error))
                continue
            yield index, found


def _no_sample(path: Path, index: int, error: Exception) -> UnreadableError:
    return UnreadableError(f"{path}#{index} is no sample of fairchem 1: {cause(error)}")


def _attributes(graph: Any) -> dict[str, Any]:
    """Return a graph's attributes; releases 1 and 2 of PyTorch Geometric keep them in two places."""
    attributes = graph if isinstance(graph, dict) else graph.__dict__
    store = attributes.get("_store")
    if store is not None:
        attributes = store.__dict__["_mapping"]
    return {_RENAMED.get(name) or name: value for name, value in attributes.items() if value is not None}


def _structure(sample: dict[str, Any]) -> Atoms:
    numbers = _whole("atomic_numbers", sample["atomic_numbers"])
    if "natoms" in sample and int(sample["natoms"]) != len(numbers):
        raise ValueError(f"natoms={sample['natoms']}, but {len(numbers)} atomic_numbers")
    fixed = fixed_mask(sample.get("fixed", []), len(numbers))
    return Atoms(
        numbers=numbers,
        positions=np.asarray(sample["pos"], dtype=np.float64),
        cell=np.reshape(sample["cell"], (3, 3)).astype(np.float64),
        pbc=np.reshape(sample.get("pbc", [True, True, True]), 3).astype(bool),
        tags=_whole("tags", sample["tags"]) if "tags" in sample else None,
        constraint=FixAtoms(mask=fixed) if fixed.any() else None,
    )


def _whole(name: str, values: Any) -> np.ndarray:
    """Return whole numbers (n,), which are a number and no array where there is one atom."""
    found = np.reshape(values, -1)
    wrong = found[~(found == np.floor(found))]
    if len(wrong):
        raise ValueError(f"{name} has {wrong[0]}; expected whole numbers")
    return found.astype(int)


def _properties(sample: dict[str, Any]) -> dict[str, Any]:
    names = {"sid", "fid"} | {name for name in sample if not name.startswith("_")} - _STRUCTURE
    return {name: value for name, value in sample.items() if name in names}


def _plain(value: Any) -> Any:
    """Return a number or text for what holds only one, an array otherwise."""
    if isinstance(value, str | bool | int | float):
        return value
    array = np.asarray(value)
    return array.item() if array.size == 1 else array
