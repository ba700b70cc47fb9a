"""Numbers of a data set, added up frame by frame; what is kept of a frame is small."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from ocp_scn.data.constraints import held_atoms
from ocp_scn.data.frames import Frame
from ocp_scn.data.survey import Survey
from ocp_scn.fairchem.search import find_pairs
from ocp_scn.fairchem.structures import system_of

# Borders of the bins of forces, eV/Å: 100 to a decade.
FORCE_BINS = np.geomspace(1e-4, 1e4, 801)


class Tally:
    """How often each whole number occurs."""

    def __init__(self) -> None:
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Add numbers (n,) from 0 on."""
        counts = np.bincount(values, minlength=len(self.counts))
        counts[: len(self.counts)] += self.counts
        self.counts = counts

    @property
    def total(self) -> int:
        """How many were added."""
        return int(self.counts.sum())

    def summary(self) -> tuple[float, float, float, float]:
        """Return the least, the lower median, the mean and the greatest."""
        there = np.flatnonzero(self.counts)
        middle = np.searchsorted(self.counts.cumsum(), (self.total + 1) // 2)
        mean = float(self.counts @ np.arange(len(self.counts))) / self.total
        return float(there[0]), float(middle), mean, float(there[-1])

    def above(self, limit: int) -> float:
        """Return the share that is above a limit."""
        return float(self.counts[limit + 1 :].sum()) / self.total


@dataclass
class Forces:
    """Norms of the forces on free atoms, eV/Å."""

    bins: np.ndarray = field(default_factory=lambda: np.zeros(len(FORCE_BINS) - 1, dtype=np.int64))
    count: int = 0
    total: float = 0.0
    least: float = np.inf
    largest: float = -np.inf
    where: str = ""  # the frame that has the largest

    def add(self, norms: np.ndarray, where: str) -> None:
        """Add the norms (n,) of a frame."""
        if not len(norms):
            return
        self.bins += np.histogram(norms.clip(FORCE_BINS[0], FORCE_BINS[-1]), FORCE_BINS)[0]
        self.count += len(norms)
        self.total += float(norms.sum())
        self.least = min(self.least, float(norms.min()))
        if norms.max() > self.largest:
            self.largest, self.where = float(norms.max()), where

    def summary(self) -> tuple[float, float, float, float]:
        """Return the least, the median (as near as the bins are wide), the mean and the largest."""
        middle = int(np.searchsorted(self.bins.cumsum(), (self.count + 1) // 2))
        median = float(np.clip(FORCE_BINS[middle], self.least, self.largest))
        return self.least, median, self.total / self.count, self.largest


class Statistics:
    """Numbers of the frames that were added.

    Args:
        cutoff: up to which atoms are neighbours, Å.
    """

    def __init__(self, cutoff: float) -> None:
        self.cutoff = cutoff
        self.survey = Survey()
        self.atoms, self.neighbors, self.forces = Tally(), Tally(), Forces()
        self.elements: Counter[int] = Counter()  # atoms
        self.frames_with: Counter[int] = Counter()  # frames, by element
        self.labels: Counter[str] = Counter()  # frames
        self.fixed = 0  # atoms

    def add(self, frame: Frame) -> None:
        """Add a frame without a fault."""
        atoms, labels = frame.atoms, {"energy": frame.energy, "forces": frame.forces, **frame.targets}
        self.survey.add(frame)
        self.atoms.add(np.array([len(atoms)]))
        numbers, counts = np.unique(atoms.numbers, return_counts=True)
        self.elements.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        self.frames_with.update(numbers.tolist())
        self.labels.update(name for name, value in labels.items() if value is not None)
        held = held_atoms(atoms)
        self.fixed += int(held.sum())
        self.neighbors.add(find_pairs(system_of(atoms), self.cutoff, torch.device("cpu")).counts)
        if frame.forces is not None:
            where = f"{frame.origin} (system {frame.sid}, frame {frame.fid})"
            self.forces.add(np.linalg.norm(frame.forces[~held], axis=1), where)

    def energies(self) -> dict[str, np.ndarray]:
        """Return energies (N,) of the frames, eV, under names with their unit; none without labels.

        Less references of the elements, which are fitted to all frames, where compositions vary.
        """
        whole = self.survey.energies()
        if not len(whole):
            return {}
        rows = {"energy [eV]": whole, "energy / atoms [eV]": self.survey.energies_per_atom()}
        fit = self.survey.fit({})
        if self.survey.compositions > 1 and fit.frames > fit.elements:
            rows["energy - references [eV]"] = self.survey.energies(fit.solve())
        return rows
