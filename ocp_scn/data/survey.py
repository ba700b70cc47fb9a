"""What a source has, read once before anything is written: who is in which split, and element references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ocp_scn.data.frames import Frame
from ocp_scn.data.references import ReferenceFit
from ocp_scn.data.splits import TRAIN, Rule, split_of


class Survey:
    """The ids, compositions and energies of the frames of a source, added one by one."""

    def __init__(self) -> None:
        self.ids: list[tuple[str, int]] = []  # system, number
        self._compositions: list[bytes] = []
        self._energies: list[float | None] = []  # eV
        self._known: dict[bytes, bytes] = {}  # one object for all frames of a composition

    def add(self, frame: Frame) -> None:
        """Add a frame; of its structure, the elements alone are kept."""
        composition = np.sort(frame.atoms.numbers).astype(np.int16).tobytes()
        energy = frame.targets.get("y_relaxed") if frame.energy is None else frame.energy
        self.ids.append((frame.sid, frame.fid or 0))
        self._compositions.append(self._known.setdefault(composition, composition))
        self._energies.append(energy)

    def frames(self, rules: Mapping[str, Rule]) -> Counter[str]:
        """Return the number of frames that rules send to each split."""
        return Counter(split_of(sid, fid, rules) for sid, fid in self.ids)

    def fit(self, rules: Mapping[str, Rule]) -> ReferenceFit:
        """Return the fit of references to the energies of the training frames."""
        fit = ReferenceFit()
        for place, composition, energy in zip(self.ids, self._compositions, self._energies, strict=True):
            if energy is not None and split_of(*place, rules) == TRAIN:
                fit.add(np.frombuffer(composition, dtype=np.int16), energy)
        return fit
