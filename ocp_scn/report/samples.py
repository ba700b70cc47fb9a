"""Structures of a data set with their labels, for both lines of fairchem: LMDB and ASE-LMDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data.colors import jmol_colors
from tqdm import tqdm

from ocp_scn.data.constraints import held_atoms
from ocp_scn.data.formats import read_ase_lmdb
from ocp_scn.errors import InputError, UnreadableError, cause
from ocp_scn.fairchem.finite import check_label
from ocp_scn.fairchem.inputs import tensor_fault
from ocp_scn.fairchem.structures import place_fault
from ocp_scn.predictions import structure_name

ASE_LMDB = "*.aselmdb"


class Sample(NamedTuple):
    """A structure of n atoms: its id in predictions, atomic numbers (n,), tags (n,) if it has some, which
    atoms (n,) are free, energy in eV (NaN without) and forces (n, 3) eV/Å."""

    name: str
    numbers: np.ndarray
    tags: np.ndarray | None
    free: np.ndarray
    energy: float
    forces: np.ndarray | None


def read_samples(source: str, energy_key: str) -> Iterator[Sample]:
    """Yield the samples of a data set, in order; on a terminal with the time that remains.

    Args:
        source: the data set.
        energy_key: the label that is the energy.

    Raises:
        InputError: for a data set that does not exist or cannot be read, a sample that is none, or a
            label that is no number.
    """
    if not Path(source).exists():
        raise InputError(f"data set {source!r} does not exist (run this where the training ran)")
    read = _read_rows if ase_files(source) else _read_graphs
    yield from tqdm(
        read(source, energy_key),
        total=_count(source),
        desc=f"reading {Path(source).name}",
        unit=" structures",
        disable=None,
    )


def ase_files(source: str) -> list[Path]:
    """Return the files of a data set of fairchem-core 2, in fairchem's order; none for one of 1."""
    path = Path(source)
    return [path] if path.match(ASE_LMDB) else sorted(path.glob(ASE_LMDB))


def read_structures(source: str, rows: Sequence[int]) -> list[Atoms]:
    """Return some structures of a data set, to be drawn, in the order of their ``rows``.

    Raises:
        InputError: for positions or a cell that are none.
    """
    found = _structures(source, rows)
    for row, atoms in zip(rows, found, strict=True):
        fault = place_fault(atoms)
        if fault is not None:
            raise InputError(f"data set {source!r}: structure {row}: {fault}")
        unknown = (atoms.numbers < 0) | (atoms.numbers >= len(jmol_colors))
        atoms.numbers[unknown] = 0  # X: ASE has no colour for them
    return found


def _structures(source: str, rows: Sequence[int]) -> list[Atoms]:
    if not ase_files(source):
        from ocp_scn.fairchem.v1.lmdb import open_data_set, read_sample  # noqa: PLC0415  # of one line

        data_set = open_data_set(source)
        name = f"data set {source!r}: structure"
        return [_atoms(read_sample(data_set, source, row), f"{name} {row}") for row in rows]
    from ocp_scn.fairchem.aselmdb import connect  # noqa: PLC0415  # of the other

    found: dict[int, Atoms] = {}
    first = 0
    for path in ase_files(source):
        with closing(connect(path)) as database:
            ids = database.ids
            for row in rows:
                if first <= row < first + len(ids):
                    found[row] = database.get(id=ids[row - first]).toatoms()
            first += len(ids)
    return [found[row] for row in rows]


def _count(source: str) -> int:
    if not ase_files(source):
        try:
            from ocp_scn.fairchem.v1.lmdb import open_data_set  # noqa: PLC0415
        except ImportError as error:
            raise InputError(f"reading {source!r} needs fairchem-core 1.10's environment: {error}") from error
        return len(open_data_set(source))
    try:
        from ocp_scn.fairchem.aselmdb import connect  # noqa: PLC0415
    except ImportError as error:
        raise InputError(f"reading {source!r} needs fairchem-core 2's environment: {error}") from error
    count = 0
    for path in ase_files(source):
        with closing(connect(path)) as database:
            count += len(database.ids)
    return count


def _read_graphs(source: str, energy_key: str) -> Iterator[Sample]:
    from ocp_scn.fairchem.v1.data_checks import UNREADABLE, predicted_name  # noqa: PLC0415
    from ocp_scn.fairchem.v1.lmdb import read_data_set  # noqa: PLC0415

    for index, graph in enumerate(read_data_set(source)):
        try:
            name = predicted_name(graph)
            for label in {energy_key, "forces"} & set(graph.keys()):
                check_label(f"data set {source!r}: {name!r}", label, graph[label])
            energy = float(graph[energy_key]) if energy_key in graph else np.nan
            found = sample_of(graph, name, energy)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"data set {source!r}: sample {index} is invalid: {cause(error)}") from error
        yield found


def sample_of(graph: Any, name: str, energy: float) -> Sample:
    """Return a sample of fairchem-core 1 under a name, with an energy in eV."""
    numbers = graph.atomic_numbers.long().numpy()
    return Sample(
        name,
        numbers,
        graph.tags.numpy() if "tags" in graph and len(graph.tags) == len(numbers) else None,
        (graph.fixed == 0).numpy(),
        energy,
        graph.forces.numpy() if "forces" in graph else None,
    )


def _read_rows(source: str, energy_key: str) -> Iterator[Sample]:
    for index, (atoms, data) in enumerate(read_ase_lmdb(ase_files(source))):
        name = structure_name(data.get("sid", index), data.get("fid"))
        labels = {**({} if atoms.calc is None else atoms.calc.results), **data}
        for label in {energy_key, "forces"} & set(labels):
            check_label(f"data set {source!r}: {name!r}", label, labels[label])
        for label, shape in ((energy_key, ()), ("forces", (len(atoms), 3))):
            if label in labels and np.shape(labels[label]) != shape:
                raise UnreadableError(
                    f"data set {source!r}: {name!r} has {label} of shape {np.shape(labels[label])}; "
                    f"expected {shape}"
                )
        yield Sample(
            name,
            atoms.numbers,
            atoms.get_tags() if atoms.has("tags") else None,
            ~held_atoms(atoms),
            float(labels[energy_key]) if energy_key in labels else np.nan,
            np.asarray(labels["forces"], dtype=np.float64) if "forces" in labels else None,
        )


def _atoms(graph: Any, name: str) -> Atoms:
    fault = tensor_fault(graph, ("pos", "cell", "atomic_numbers"))
    if fault is not None:
        raise InputError(f"{name} has {fault}")
    return Atoms(
        numbers=graph.atomic_numbers.long().numpy(),
        positions=graph.pos.double().numpy(),
        cell=graph.cell.double().view(3, 3).numpy(),
        pbc=graph.pbc.view(3).bool().numpy() if "pbc" in graph else True,
    )
