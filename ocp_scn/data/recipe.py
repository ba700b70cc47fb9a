"""Settings of a training that fit a data set: how large a model, how many steps of how many atoms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocp_scn.data.conversion import Report
from ocp_scn.data.splits import TRAIN

# Standard deviations below this are those of frames that are alike, eV or eV/Å: nothing to scale by.
_ALIKE = 1e-3
# Of a batch; and steps that an epoch has at least, so that a small data set is not one batch.
_MOST_FRAMES, _STEPS_OF_EPOCH = 32, 8
# Where in a training the learning rate is lowered.
_MILESTONES = (0.55, 0.78, 0.91)
_LEARNING_RATE_FALLS = 0.3
_EVALUATE_AFTER = 5000  # steps, where an epoch has more


@dataclass(frozen=True)
class Size:
    """A model, and a training that suits it.

    Attributes:
        name: for comments.
        like: the experiment whose settings these are.
        atoms: of all training frames, up to which it is taken.
        model: its settings.
        coefficients: of the losses of energy and forces.
        atoms_of_step: atoms of a batch, about.
        steps: of a training, at least.
        epochs: of a training, at least.
        lr: learning rate.
        warmup_steps: steps up to it.
        ema_decay: of the averaged weights.
        num_workers: processes that read the data.
    """

    name: str
    like: str
    atoms: float
    model: Mapping[str, Any]
    coefficients: tuple[float, float]
    atoms_of_step: int
    steps: int
    epochs: int
    lr: float
    warmup_steps: int
    ema_decay: float
    num_workers: int


_COMMON = {"use_pbc": True, "use_grid": True, "distance_function": "gaussian", "basis_width_scalar": 2.0}
SMALL = Size(
    name="small",
    like="configs/s2ef/example/scn.yml",
    atoms=1e5,  # the demo has 4e4
    model={
        **_COMMON,
        "cutoff": 5.0,
        "max_num_neighbors": 20,  # the example's surfaces need 12, crystals more
        "num_interactions": 2,
        "lmax": 3,
        "mmax": 0,
        "num_resolutions": 1,
        "sphere_channels": 32,
        "sphere_channels_reduce": 32,
        "hidden_channels": 128,
        "num_taps": 1,
        "num_bands": 1,
        "num_sphere_samples": 48,
        "num_basis_functions": 32,
        "distance_resolution": 0.05,
    },
    coefficients=(12.0, 50.0),
    atoms_of_step=80,
    steps=2700,
    epochs=6,
    lr=2e-3,
    warmup_steps=50,
    ema_decay=0.99,
    num_workers=0,
)
MEDIUM = Size(
    name="medium",
    like="configs/s2ef/oc20_sample/scn.yml",
    atoms=1e7,  # OC20's 200k has 1.5e7
    model={
        **_COMMON,
        "cutoff": 6.0,
        "max_num_neighbors": 20,
        "num_interactions": 4,
        "lmax": 4,
        "mmax": 1,
        "num_resolutions": 2,
        "sphere_channels": 32,
        "sphere_channels_reduce": 32,
        "hidden_channels": 128,
        "num_taps": 1,
        "num_bands": 1,
        "num_sphere_samples": 64,
        "num_basis_functions": 64,
        "distance_resolution": 0.02,
    },
    coefficients=(4.0, 100.0),
    atoms_of_step=320,
    steps=20_000,
    epochs=6,
    lr=1e-3,
    warmup_steps=100,
    ema_decay=0.99,
    num_workers=0,
)
LARGE = Size(
    name="large",
    like="configs/s2ef/200k/scn-t1-b1.yml",
    atoms=math.inf,
    model={
        **_COMMON,
        "cutoff": 8.0,
        "max_num_neighbors": 40,
        "num_interactions": 12,
        "lmax": 6,
        "mmax": 1,
        "num_resolutions": 2,
        "sphere_channels": 128,
        "sphere_channels_reduce": 128,
        "hidden_channels": 1024,
        "num_taps": 1,
        "num_bands": 1,
        "num_sphere_samples": 128,
        "num_basis_functions": 128,
        "distance_resolution": 0.02,
    },
    coefficients=(2.0, 100.0),
    atoms_of_step=300,
    steps=20_000,
    epochs=12,
    lr=4e-4,
    warmup_steps=100,
    ema_decay=0.999,
    num_workers=8,
)


@dataclass(frozen=True)
class Recipe:
    """A training on a data set.

    Attributes:
        size: the model and what suits it.
        model: its settings for these data.
        labels: ``energy``, and ``forces`` where there are any.
        frames: of the training set.
        atoms: of the training set.
        batch_size: frames of a batch.
        max_atoms: atoms of a batch of whole structures, at least those of the largest.
        energy_mean: eV.
        energy_stdev: eV.
        forces_stdev: eV/Å.
        val: name of the split that validates it, if there is one.
        test: name of the split that is predicted, if there is one.
    """

    size: Size
    model: dict[str, Any]
    labels: tuple[str, ...]
    frames: int
    atoms: int
    batch_size: int
    max_atoms: int
    energy_mean: float
    energy_stdev: float
    forces_stdev: float
    val: str | None
    test: str | None

    @property
    def frames_of_max_atoms(self) -> int:
        """Frames of a batch that is counted in atoms, about."""
        return max(1, self.max_atoms * self.frames // self.atoms)

    def schedule(self, batch_size: int) -> Schedule:
        """Return how long and at what rate to train with batches of so many frames."""
        per_epoch = math.ceil(self.frames / batch_size)
        epochs = max(self.size.epochs, math.ceil(self.size.steps / per_epoch))
        steps = epochs * per_epoch
        return Schedule(per_epoch, epochs, steps, [round(steps * share) for share in _MILESTONES])


@dataclass(frozen=True)
class Schedule:
    """The length of a training, and the steps at which its learning rate falls."""

    steps_of_epoch: int
    epochs: int
    steps: int
    milestones: list[int]
    gamma: float = _LEARNING_RATE_FALLS

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations: an epoch, if it is not long."""
        return min(self.steps_of_epoch, _EVALUATE_AFTER)


def recipe_for(report: Report, *, max_num_elements: int) -> Recipe | None:
    """Return a training on what a conversion wrote; None where no training frame has an energy."""
    known = report.labelled.get(TRAIN, Counter[str]())
    if not known.get("energy"):
        return None
    labels = ("energy", "forces") if known.get("forces") else ("energy",)
    frames, atoms = report.frames[TRAIN], report.atoms[TRAIN]
    size = next(size for size in (SMALL, MEDIUM, LARGE) if atoms <= size.atoms)
    batch = min(round(size.atoms_of_step * frames / atoms), _MOST_FRAMES, frames // _STEPS_OF_EPOCH)
    energy_mean, energy_stdev, forces_stdev = _scales(report.normalizer())
    settings = {"regress_forces": "forces" in labels, "max_num_elements": max_num_elements}
    val = _split(report, "val")
    if val is not None and not all(report.labelled[val].get(label) for label in labels):
        val = None
    batch = max(1, batch)
    return Recipe(
        size=size,
        model={**settings, **size.model},
        labels=labels,
        frames=frames,
        atoms=atoms,
        batch_size=batch,
        max_atoms=max(report.largest, math.ceil(batch * atoms / frames)),
        energy_mean=energy_mean,
        energy_stdev=energy_stdev,
        forces_stdev=forces_stdev,
        val=val,
        test=_split(report, "test"),
    )


def _split(report: Report, name: str) -> str | None:
    """Return the split of a name, or the first whose name begins so."""
    found = sorted(split for split in report.frames if split.startswith(name))
    return name if name in found else next(iter(found), None)


def _scales(normalizer: Mapping[str, Mapping[str, float]]) -> tuple[float, float, float]:
    """Return mean and stdev of energies, eV, and stdev of forces, eV/Å; 1 for frames that are all alike."""
    energy, forces = normalizer["energy"], normalizer.get("forces", {"stdev": 0.0})
    of_forces = forces["stdev"] if forces["stdev"] >= _ALIKE else 1.0
    return energy["mean"], energy["stdev"] if energy["stdev"] >= _ALIKE else of_forces, of_forces
