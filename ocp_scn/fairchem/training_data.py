"""What a trained model has to know of its training data: its elements, and whether sizes vary."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch.utils.data import Subset

from ocp_scn.errors import InputError, shown
from ocp_scn.npz import Npz, check_npz, write_npz

log = logging.getLogger(__name__)
# Beside a data set's files; fairchem 2 takes most others in that folder for databases.
ELEMENTS_FILE = "elements.npz"
METADATA_FILE = "metadata.npz"  # fairchem's, with natoms of each sample
# A data set without that file is read through once, where that takes no more than a minute or two.
_READ_THROUGH = 500_000
# Samples that say whether sizes vary, where no metadata do.
_FIRST = 100


def write_elements(folder: Path, elements: Iterable[int]) -> None:
    """Write the atomic numbers that occur in a data set beside its files."""
    numbers = np.array(sorted(elements), dtype=np.int64)
    write_npz(folder / ELEMENTS_FILE, [("atomic_numbers", numbers)])


def elements_of(data_set: Any) -> set[int] | None:
    """Return the atomic numbers in a data set of fairchem; None if that takes long to find out.

    Raises:
        InputError: for a record of elements that cannot be read.
    """
    files = [_folder(path) / ELEMENTS_FILE for path in _whole(data_set).paths]
    if all(file.is_file() for file in files):
        return {number for file in files for number in _read_elements(file)}
    if len(data_set) > _READ_THROUGH:
        log.warning(
            f"{files[0].parent} has no {ELEMENTS_FILE}: checkpoints will not know the trained elements"
        )
        return None
    found: set[int] = set()
    for index in range(len(data_set)):
        found.update(data_set[index].atomic_numbers.long().tolist())
    return found


def check_metadata(source: Path, count: int | None = None) -> None:
    """Check the file ``metadata.npz`` of a data set, a file or a folder, before fairchem reads it.

    Args:
        source: the data set.
        count: its number of samples, where that is known.

    Raises:
        InputError: for a file that cannot be read, with arrays larger than it, or of other samples.
    """
    path = _folder(source) / METADATA_FILE
    check_npz(path)
    if count is None or not path.is_file():
        return
    sizes = Npz(path)["natoms"]
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu":
        raise InputError(f"{path}: natoms is {sizes.dtype} of shape {sizes.shape}; expected integers")
    if len(sizes) != count:
        raise InputError(f"{path} has the sizes of {len(sizes)} samples, and the data set has {count}")


def sizes_of(data_set: Any) -> tuple[int, int]:
    """Return the least and greatest number of atoms of a data set's samples."""
    sizes = _whole(data_set)._metadata.get("natoms")
    if sizes is None:
        sizes = [int(data_set[index].natoms) for index in range(min(_FIRST, len(data_set)))]
    return int(min(sizes)), int(max(sizes))


def warn_of_mean(mean: float, sizes: tuple[int, int]) -> None:
    """Warn that a mean of energies is added once a system, where systems differ in size."""
    if mean != 0 and sizes[0] != sizes[1]:
        log.warning(
            f"the normalizer's energy mean of {mean:.6g} eV is added once a system, and the training data "
            f"have systems of {sizes[0]} to {sizes[1]} atoms: right for adsorption energies; for total ones, "
            "train with element references and a mean of 0 (docs/data.md)"
        )


def warn_of_new_elements(found: Iterable[int], known: Iterable[int]) -> None:
    """Warn of elements of the training data that the checkpoint of a training was not trained on, if any."""
    new = set(found) - set(known)
    if new and known:
        log.warning(
            f"the training data have {_symbols(new)}, which the checkpoint was not trained on: the model "
            "learns of them from these data alone"
        )


class KnownElements:
    """The elements that a model was trained on, and what is done about others.

    Args:
        numbers: atomic numbers.
        strict: refuse other elements, instead of a warning.
    """

    def __init__(self, numbers: Iterable[int], *, strict: bool) -> None:
        self.numbers = set(numbers)
        self.strict = strict
        self._warned: set[int] = set()

    def check(self, atomic_numbers: np.ndarray) -> None:
        """Warn of atomic numbers (A,) that are not among them, once each.

        Raises:
            InputError: instead, if strict.
        """
        others = set(np.unique(atomic_numbers).astype(int).tolist()) - self.numbers
        if not others - self._warned:
            return
        known = f"the model was trained on {_symbols(self.numbers)}, not on {_symbols(others)}"
        if self.strict:
            raise InputError(f"{known} (strict_elements=True)")
        log.warning(f"{known}, so its predictions for these are a guess (strict_elements=True refuses them)")
        self._warned |= others


def _whole(data_set: Any) -> Any:
    while isinstance(data_set, Subset):
        data_set = data_set.dataset
    return data_set


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _read_elements(file: Path) -> list[int]:
    try:
        numbers = Npz(file).numbers("atomic_numbers")
    except InputError as error:
        raise InputError(f"{file} is no record of elements: {error}") from error
    strange = numbers[~np.isin(numbers, range(len(chemical_symbols)))]
    if numbers.ndim != 1 or strange.size:
        raise InputError(f"{file} is no record of elements: it has {shown(numbers.tolist())}")
    return numbers.astype(int).tolist()


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[number] for number in sorted(numbers))
