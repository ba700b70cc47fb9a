"""Linear element references: the part of an energy that composition explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ocp_scn.errors import InputError

NUM_ELEMENTS = 119
# Published reference files mark elements that never occurred with numbers of this size, eV.
_UNDEFINED = 1e4


class LinearReferences:
    """Energies of the elements, coeff[Z] in eV; NaN where undefined."""

    def __init__(self, coeff: np.ndarray) -> None:
        self.coeff = np.where(np.abs(coeff) < _UNDEFINED, coeff, np.nan)

    @classmethod
    def load(cls, path: Path) -> LinearReferences:
        """Read ``coeff`` from an npz file, as fairchem's ``lin_ref`` option does."""
        try:
            return cls(np.load(path)["coeff"].astype(np.float64).ravel())
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                f"--references {str(path)!r} is not an npz file with an array 'coeff': {error}"
            ) from error

    def save(self, path: Path) -> None:
        """Write an npz file with ``coeff``."""
        np.savez(path, coeff=self.coeff)

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

    def add(self, numbers: np.ndarray, energy: float) -> None:
        """Add a frame: atomic numbers (n,) and energy in eV."""
        counts = np.bincount(numbers, minlength=NUM_ELEMENTS).astype(np.float64)
        self._normal += np.outer(counts, counts)
        self._right += counts * energy

    def solve(self) -> LinearReferences:
        """Return the references; the shortest solution where compositions leave a choice."""
        coeff = np.linalg.pinv(self._normal, rcond=1e-12, hermitian=True) @ self._right
        return LinearReferences(np.where(np.diag(self._normal) > 0, coeff, np.nan))
