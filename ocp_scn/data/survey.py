"""What a source has, read once before anything is written: who is in which split, and element references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ocp_scn.data.frames import Frame
from ocp_scn.data.references import LinearReferences, ReferenceFit
from ocp_scn.data.splits import TRAIN, Rule, split_of

_TYPE = np.int16  # of atomic numbers


class Survey:
    """The ids, compositions and energies of the frames of a source, added one by one."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, int]] = []  # system, number
        self._compositions: list[bytes] = []
        self._energies: list[float | None] = []  # eV
        self._known: dict[bytes, bytes] = {}  # one object for all frames of a composition

    def add(self, frame: Frame) -> None:
        """Add a frame; of its structure, the elements alone are kept."""
        composition = np.sort(frame.atoms.numbers).astype(_TYPE).tobytes()
        energy = frame.targets.get("y_relaxed") if frame.energy is None else frame.energy
        self.ids.append((frame.sid, frame.fid or 0))
        self._compositions.append(self._known.setdefault(composition, composition))
        self._energies.append(energy)

    def fit(self, rules: Mapping[str, Rule]) -> ReferenceFit:
        """Return the fit of references to the energies of the training frames."""
        fit = ReferenceFit()
        for place, composition, energy in zip(self.ids, self._compositions, self._energies, strict=True):
            if energy is not None and split_of(*place, rules) == TRAIN:
                fit.add(_numbers(composition), energy)
        return fit

    def elements(self) -> list[frozenset[int]]:
        """Return the atomic numbers of each frame."""
        known = {found: frozenset(_numbers(found).tolist()) for found in self._known}
        return [known[found] for found in self._compositions]

    @property
    def compositions(self) -> int:
        """The number of different compositions."""
        return len(self._known)

    def energies(self, references: LinearReferences | None = None) -> np.ndarray:
        """Return the energies (N,) of frames that have one, less references, eV."""
        return np.array([energy - _part(references, found) for found, energy in self._labelled()])

    def energies_per_atom(self) -> np.ndarray:
        """Return the energies (N,) of frames that have one, each by its number of atoms, eV."""
        return np.array([energy / len(_numbers(found)) for found, energy in self._labelled()])

    def _labelled(self) -> Iterator[tuple[bytes, float]]:
        for composition, energy in zip(self._compositions, self._energies, strict=True):
            if energy is not None:
                yield composition, energy


def _numbers(composition: bytes) -> np.ndarray:
    return np.frombuffer(composition, dtype=_TYPE)


def _part(references: LinearReferences | None, composition: bytes) -> float:
    return 0.0 if references is None else references.energy(_numbers(composition))
