"""Linear element references: the part of an energy that composition explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from ocp_scn.errors import InputError
from ocp_scn.npz import Npz, write_npz

NUM_ELEMENTS = 119
# Published reference files mark elements that never occurred with numbers of this size, eV.
_UNDEFINED = 1e4


class LinearReferences:
    """Energies of the elements, coeff[Z] in eV; NaN where undefined."""

    def __init__(self, coeff: np.ndarray) -> None:
        self.coeff = coeff

    @classmethod
    def load(cls, path: Path) -> LinearReferences:
        """Read ``coeff`` from an npz file, as fairchem's ``lin_ref`` option does."""
        try:
            file = Npz(path)
            coeff = file.numbers("coeff").astype(np.float64).ravel()
            defined = file["defined"] if "defined" in file else np.abs(coeff) < _UNDEFINED
        except InputError as error:
            message = f"--references {str(path)!r} is not an npz file with an array 'coeff': {error}"
            raise InputError(message) from error
        if defined.shape != coeff.shape or defined.dtype != bool:
            raise InputError(
                f"--references {path}: 'defined' is {defined.dtype} of shape {defined.shape}; expected "
                f"bool of shape {coeff.shape}"
            )
        return cls(np.where(defined, coeff, np.nan))

    def save(self, path: Path) -> None:
        """Write an npz file that both lines of fairchem read: ``coeff``, 0 where not ``defined``.

        fairchem adds what it finds; as in its own fits, an element that never occurred has 0.
        """
        write_npz(path, [("coeff", np.nan_to_num(self.coeff)), ("defined", np.isfinite(self.coeff))])

    def by_symbol(self) -> dict[str, float]:
        """Return the references that are defined and not 0, eV, by chemical symbol."""
        coeff = np.nan_to_num(self.coeff[:NUM_ELEMENTS])
        return {chemical_symbols[number]: float(coeff[number]) for number in np.flatnonzero(coeff)}

    def energy(self, numbers: np.ndarray) -> float:
        """Return the sum over atoms, eV; NaN if an element has no reference."""
        if numbers.max() >= len(self.coeff):
            return float("nan")
        return float(self.coeff[numbers].sum())


class ReferenceFit:
    """Least squares of energies over compositions, accumulated frame by frame."""

    def __init__(self) -> None:
        self._normal = np.zeros((NUM_ELEMENTS, NUM_ELEMENTS))
        self._right = np.zeros(NUM_ELEMENTS)
        self.frames = 0

    @property
    def elements(self) -> int:
        """The number of elements that occurred."""
        return int((np.diag(self._normal) > 0).sum())

    def add(self, numbers: np.ndarray, energy: float) -> None:
        """Add a frame: atomic numbers (n,) and energy in eV."""
        counts = np.bincount(numbers, minlength=NUM_ELEMENTS).astype(np.float64)
        self._normal += np.outer(counts, counts)
        self._right += counts * energy
        self.frames += 1

    def solve(self) -> LinearReferences:
        """Return the references; the shortest solution where compositions leave a choice."""
        coeff = np.linalg.pinv(self._normal, rcond=1e-12, hermitian=True) @ self._right
        return LinearReferences(np.where(np.diag(self._normal) > 0, coeff, np.nan))
