"""Samples of fairchem-core 1's LMDB files, read without fairchem 1, PyTorch Geometric, or trust.

The files are pickles, of which `ocp_scn.unpickling` rebuilds arrays, tensors and containers, and graphs
of PyTorch Geometric as plain stand-ins; anything else is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from ocp_scn import unpickling
from ocp_scn.data.fixed import fixed_mask
from ocp_scn.errors import UnreadableError, cause, refuse
from ocp_scn.fairchem.files import open_lmdb, sample_count
from ocp_scn.unpickling import ERRORS, Graph

SUFFIX = ".lmdb"
# Names of targets before 2023, and what is rebuilt from the structure or not needed.
_RENAMED = {"y": "energy", "force": "forces"}
_STRUCTURE = {"pos", "cell", "atomic_numbers", "natoms", "tags", "fixed", "pbc"}
_GRAPH = {"edge_index", "edge_attr", "edge_weight", "edge_distance_vec", "cell_offsets", "distances"}
_GRAPH |= {"cell_offset_distances", "neighbors", "nedges", "ptr", "batch", "num_nodes"}
# What damaged or foreign files end with.
_ERRORS = (*ERRORS, lmdb.Error)


class _Tensor:
    """A tensor that is rebuilt when its numbers are asked for, which takes time."""

    def __init__(self, storage: bytes, *layout: Any) -> None:
        self.storage, self.layout = storage, layout

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return unpickling.tensor(unpickling.storage(self.storage), *self.layout).numpy()


class _Unpickler(unpickling.Unpickler):
    known = unpickling.KNOWN | {
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch.storage", "_load_from_bytes"): bytes,
    }


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
    """Return a graph's attributes, under the names of today."""
    found = graph.attributes if isinstance(graph, Graph) else dict(graph)
    return {_RENAMED.get(name) or name: value for name, value in found.items() if value is not None}


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
