"""Prediction files (S2EF, and IS2RE direct) compared with the data sets that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ocp_scn.arrays import block_rows, doubled_ids, row_counts, some
from ocp_scn.errors import InputError
from ocp_scn.report.samples import Sample, read_samples
from ocp_scn.submission.results import Results

NO_TAG = -1
ELEMENTS = len(chemical_symbols)
ADSORBATE = 2  # OC20's tag


@dataclass(frozen=True)
class Targets:
    """What a data set says of S structures with F free atoms, sorted by id.

    Attributes:
        ids: of the structures.
        energy: (S,) eV, NaN where a structure has none.
        forces: (F, 3) eV/Å of free atoms, NaN where a structure has none; None if none has (IS2RE).
        free_atoms: (S,) numbers of free atoms.
        composition: (S,) eV, what a model's element references make of each structure; 0 without.
        source: the data set.
        rows: (S,) where the structures are in it.
        numbers: (F,) atomic numbers of the free atoms, 0 for what is no element.
        tags: (F,) of the free atoms, ``NO_TAG`` without.
        contains: (S, elements) which elements a structure has, fixed atoms included.
        adsorbates: (S,) formulas of the atoms with the tag of adsorbates, empty without.
    """

    ids: list[str]
    energy: np.ndarray
    forces: np.ndarray | None
    free_atoms: np.ndarray
    composition: np.ndarray
    source: str = ""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    tags: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    contains: np.ndarray = field(default_factory=lambda: np.empty((0, ELEMENTS), bool))
    adsorbates: np.ndarray = field(default_factory=lambda: np.empty(0, str))

    @property
    def unlabelled(self) -> bool:
        """Whether no structure has an energy."""
        return bool(np.isnan(self.energy).all())

    @property
    def rest(self) -> float:
        """The mean energy beyond the composition's, eV."""
        rest = self.energy - self.composition
        return float(rest[np.isfinite(rest)].mean()) if np.isfinite(rest).any() else np.nan


def data_set_name(source: str) -> str:
    """Return the name of a data set's folder."""
    path = Path(source)
    return path.parent.name if path.suffix in (".lmdb", ".aselmdb") else path.name


def composition_energy(numbers: np.ndarray, references: np.ndarray | None) -> float:
    """Return the sum of the references, eV by atomic number, over atoms; 0 without."""
    return 0.0 if references is None else float(references[numbers].sum())


def read_targets(source: str, energy_key: str = "energy", references: np.ndarray | None = None) -> Targets:
    """Return the targets of a data set.

    Args:
        source: the data set.
        energy_key: the label that is the energy.
        references: of elements, eV by atomic number.

    Raises:
        InputError: for a data set that does not exist or cannot be read, or an id that comes twice.
    """
    return collect(read_samples(source, energy_key), source, references)


def collect(samples: Iterable[Sample], source: str, references: np.ndarray | None = None) -> Targets:
    """Return the targets of samples, which are those of ``source`` in its order."""
    ids: list[str] = []
    energy, composition, contains, adsorbates = [], [], [], []
    forces, numbers, tags = [], [], []
    formulas: dict[bytes, str] = {}
    for sample in samples:
        ids.append(sample.name)
        energy.append(sample.energy)
        try:
            composition.append(composition_energy(sample.numbers, references))
        except IndexError:
            raise InputError(
                f"data set {source!r}: {sample.name!r} has an element beyond the model's references"
            ) from None
        known = np.where((sample.numbers > 0) & (sample.numbers < ELEMENTS), sample.numbers, 0).astype(
            np.uint8
        )
        contains.append(np.packbits(np.isin(np.arange(ELEMENTS), known)))
        adsorbates.append(_adsorbate(known, sample.tags, formulas))
        count = int(sample.free.sum())
        missing = sample.forces is None
        forces.append(
            np.full((count, 3), np.nan, np.float32) if missing else np.asarray(sample.forces)[sample.free]
        )
        numbers.append(known[sample.free])
        tags.append(
            np.full(count, NO_TAG, np.int8) if sample.tags is None else _small(sample.tags[sample.free])
        )
    doubled = doubled_ids(np.array(ids, dtype=str))
    if doubled:
        raise InputError(f"data set {source!r}: {doubled[0]}")
    order = np.argsort(np.array(ids, dtype=str), kind="stable")
    counts = np.array([len(block) for block in numbers], dtype=np.int64)
    rows = block_rows(counts, order) if len(order) else np.empty(0, int)
    all_forces = np.concatenate(forces)[rows].astype(np.float64) if forces else np.empty((0, 3))
    return Targets(
        ids=[ids[k] for k in order],
        energy=np.array(energy, dtype=np.float64)[order],
        forces=None if np.isnan(all_forces).all() else all_forces,
        free_atoms=counts[order],
        composition=np.array(composition, dtype=np.float64)[order],
        source=source,
        rows=order,
        numbers=np.concatenate(numbers)[rows] if numbers else np.empty(0, np.uint8),
        tags=np.concatenate(tags)[rows] if tags else np.empty(0, np.int8),
        contains=np.unpackbits(np.array(contains), axis=1)[order, :ELEMENTS].astype(bool)
        if contains
        else np.empty((0, ELEMENTS), bool),
        adsorbates=np.array(adsorbates, dtype=str)[order],
    )


def _small(tags: np.ndarray) -> np.ndarray:
    return np.where((tags >= 0) & (tags < 100), tags, NO_TAG).astype(np.int8)


def _adsorbate(numbers: np.ndarray, tags: np.ndarray | None, formulas: dict[bytes, str]) -> str:
    """Return the formula of an adsorbate, which many structures share."""
    if tags is None:
        return ""
    atoms = np.sort(numbers[tags == ADSORBATE])
    key = atoms.tobytes()
    if key not in formulas:
        formulas[key] = Atoms(numbers=atoms).get_chemical_formula(mode="hill")
    return formulas[key]


def matching(splits: Mapping[str, Targets], ids: np.ndarray) -> str | None:
    """Return the name of the data set that has these ids, which are sorted."""
    wanted = ids.tolist()
    return next((name for name, targets in splits.items() if targets.ids == wanted), None)


def mismatch(splits: Mapping[str, Targets], ids: np.ndarray) -> str:
    """Say how ids are not those of the data set that has most of them."""
    shared = {name: np.isin(ids, targets.ids) for name, targets in splits.items()}
    name = max(shared, key=lambda name: int(shared[name].sum()), default="")
    known = shared.get(name, np.zeros(len(ids), bool))
    if not known.any():
        return f"none of its {len(ids)} ids is in a data set known, {some(ids)}"
    missing = np.setdiff1d(splits[name].ids, ids)
    foreign = ids[~known]
    lines = [f"{len(missing)} are missing, {some(missing)}"] if len(missing) else []
    lines += [f"{len(foreign)} are in no data set known, {some(foreign)}"] if len(foreign) else []
    return f"of its ids, compared with the {len(splits[name].ids)} of {name!r}, {'; '.join(lines)}"


def check_finite(path: Path, found: Results) -> None:
    """Check that predictions are numbers with which metrics can be made."""
    for name in ("energy", "forces"):
        wrong = ~np.isfinite(found[name]) if name in found else np.zeros(0, bool)
        if wrong.any():
            raise InputError(f"{path}: {wrong.sum()} of {wrong.size} numbers of {name} are not finite")


def check_rows(path: Path, found: Results, targets: Targets) -> None:
    """Check that predicted forces are those of each structure's free atoms.

    Args:
        path: the file of predictions, for messages.
        found: predictions with forces, sorted by id.
        targets: those of the same ids.
    """
    counts, expected = row_counts(found), targets.free_atoms
    wrong = np.flatnonzero(counts != expected)
    if len(wrong):
        k = wrong[0]
        raise InputError(
            f"{path}: {len(wrong)} structures have forces of other atoms than the free ones; "
            f"{targets.ids[k]!r} has {counts[k]}, with {expected[k]} free"
        )
