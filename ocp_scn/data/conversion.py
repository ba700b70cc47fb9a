"""What a conversion did, and what the data set that it wrote needs to be trained on."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ocp_scn.data.constraints import held_atoms
from ocp_scn.data.frames import Frame
from ocp_scn.data.labels import RELAXED_TARGETS
from ocp_scn.data.references import LinearReferences
from ocp_scn.data.splits import TRAIN, Rule, parts_systems
from ocp_scn.errors import InputError

REFERENCES_FILE = "references.npz"


@dataclass
class Report:
    """What a conversion did."""

    references: LinearReferences | None = None
    subtracted: bool = False  # whether the energies as written lack the references
    split: str = ""  # how frames were split by themselves, in words

    next: list[str] = field(default_factory=list)  # how to train on it, in lines

    frames: Counter[str] = field(default_factory=Counter)  # written, by split
    too_large: int = 0  # frames left out for their number of atoms
    bad: Counter[str] = field(default_factory=Counter)  # left out, by fault
    unreadable: int = 0  # files and frames that could not be read
    bad_frames: list[str] = field(default_factory=list)  # "origin (system, frame): fault", of both kinds
    ids: set[str] = field(default_factory=set)  # of the frames so far
    systems: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)  # energy, forces, stress that some frame has
    not_taken: Counter[str] = field(default_factory=Counter)  # frames that say something by another name
    atoms: Counter[str] = field(default_factory=Counter)  # of all frames, by split
    largest: int = 0  # atoms of a frame
    labelled: dict[str, Counter[str]] = field(default_factory=dict)  # frames with energy, forces, by split
    targets: dict[str, Counter[str]] = field(default_factory=dict)  # frames that have each, by split
    left_out: set[str] = field(default_factory=set)  # targets that were dropped
    lost: Counter[str] = field(default_factory=Counter)  # frames, by kind of constraint that is not kept
    fixed: int = 0  # atoms of all frames
    tagged: int = 0  # frames with atoms of different tags, as slabs have
    energy: list[float] = field(default_factory=list)  # training energies without references, eV
    forces_sum2: float = 0.0  # sum of squared force components on free training atoms, (eV/Å)²
    forces_count: int = 0

    def check_splits(self, args: argparse.Namespace, rules: Mapping[str, Rule]) -> None:
        """Refuse a split without a frame."""
        empty = [name for name in [TRAIN, *rules] if not self.frames[name]]
        if not empty:
            return
        line = f"split {empty[0]!r} got no frame of {str(args.source)!r}"
        if self.systems and parts_systems(args.split, args.split_by or "system"):
            line += (
                f": whole systems are taken, of which it has {len(self.systems)}; --split-by frame parts them"
            )
        raise InputError(line)

    def check_targets(self) -> None:
        """Refuse a split in which only some frames have a target: fairchem cannot make batches of it."""
        for split, targets in self.targets.items():
            for name, count in targets.items():
                if count < self.frames[split]:
                    raise InputError(
                        f"split {split!r} has {name!r} for {count} of its {self.frames[split]} frames only; "
                        f"--leave-out {name} drops it"
                    )

    def add(self, frame: Frame, split: str) -> None:
        """Count what a frame that was written has."""
        labels = {"energy": frame.energy, "forces": frame.forces}
        known = [name for name, value in labels.items() if value is not None]
        self.labelled.setdefault(split, Counter()).update(known)
        self.targets.setdefault(split, Counter()).update(frame.targets.keys())
        self.atoms[split] += len(frame.atoms)
        self.largest = max(self.largest, len(frame.atoms))
        self.lost.update(frame.lost)
        self.fixed += int(held_atoms(frame.atoms).sum())
        self.tagged += len(np.unique(frame.atoms.get_tags())) > 1

    def count(self, frame: Frame, reference: float) -> None:
        """Add a training frame's labels to what the normalizer is made of; its reference energy in eV."""
        if frame.energy is not None:
            self.energy.append(frame.energy - reference)
        if frame.forces is None:
            return
        free = ~held_atoms(frame.atoms)
        self.forces_sum2 += float(np.square(frame.forces[free]).sum())
        self.forces_count += 3 * int(free.sum())

    def warnings(self) -> list[str]:
        """Return what a user may not expect of the data set, a line each."""
        lines = []
        if self.lost:
            kinds = ", ".join(f"{kind} ({count} frames)" for kind, count in sorted(self.lost.items()))
            lines.append(f"constraints not kept: {kinds}; only atoms held in all three directions are fixed")
        relaxed = any(count[name] for count in self.targets.values() for name in RELAXED_TARGETS)
        if not self.fixed and (relaxed or self.tagged):
            lines.append(
                "no atom is fixed; where relaxations held some, a per-atom column 'fixed' has to name them "
                "(ASE's extxyz files have no constraints unless 'move_mask' is among their columns)"
            )
        return lines

    def summary(self) -> dict[str, Any]:
        """Return what ``conversion.json`` keeps."""
        return {
            "frames": dict(self.frames),
            "split": self.split or None,
            "too_large": self.too_large,
            "unreadable": self.unreadable,
            "bad": dict(self.bad),
            "bad_frames": self.bad_frames,
            "not_taken": dict(self.not_taken),
            "constraints_not_kept": dict(self.lost),
            "normalizer": self.normalizer(),
            "references": None if self.references is None else self.references.by_symbol(),
            "references_subtracted": self.subtracted,
        }

    def normalizer(self) -> dict[str, dict[str, float]]:
        """Return mean and stdev of the training targets, as a configuration's ``normalizer`` has them.

        With references the mean is 0: a mean is added once a system, whatever its size.
        """
        found = {}
        if self.energy:
            energy = np.array(self.energy)
            mean = 0.0 if self.references is not None else float(energy.mean())
            stdev = float(np.sqrt(np.square(energy - mean).mean()))
            found["energy"] = {"mean": mean, "stdev": stdev}
        if self.forces_count:
            stdev = float(np.sqrt(self.forces_sum2 / self.forces_count))
            found["forces"] = {"mean": 0.0, "stdev": stdev}
        return found
