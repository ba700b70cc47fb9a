"""Relaxed structures: fairchem's L-BFGS with whole trajectories, the file of results, the metrics.

What is relaxed is kept part by part, so that a run under the same name goes on where it was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.stress import full_3x3_to_voigt_6_stress
from fairchem.core.common.relaxation import ml_relaxation
from fairchem.core.common.relaxation.ase_utils import batch_to_atoms
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS
from fairchem.core.modules.evaluator import Evaluator
from torch_geometric.data import Batch, Data

from ocp_scn.arrays import doubled_ids, shape_faults
from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.files import RELAXED_FILE, refused_writes, written_whole
from ocp_scn.npz import Npz, write_npz
from ocp_scn.predictions import file_name

OPTIMIZER_KEYS = ("maxstep", "memory", "damping", "alpha", "traj_dir")  # of a configuration's relax_opt
RECORD_FILE = "relaxations.json"


class Relaxed(NamedTuple):
    """A relaxed system: positions (n, 3) Å in the periodic images of the initial ones, energy eV."""

    positions: np.ndarray
    energy: float


def relaxation_settings(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of fairchem's ``ml_relax`` that a ``task`` section sets, with its defaults."""
    return {
        "steps": task.get("relaxation_steps", 300),
        "fmax": task.get("relaxation_fmax", 0.02),
        "relax_cell": task.get("relax_cell", False),
        "relax_volume": task.get("relax_volume", False),
        "save_full_traj": task.get("save_full_traj", True),
        "relax_opt": dict(task.get("relax_opt") or {}),
    }


def to_atoms(batch: Batch, results: Mapping[str, torch.Tensor]) -> list[Atoms]:
    """Return a batch's systems where they are, periodic as they are, with their energy, forces and stress.

    fairchem's own calls every system periodic and folds it into its cell, which for a molecule is one of
    1 Å; and it takes the forces on systems of one atom for numbers of systems.
    """
    systems, energies = batch_to_atoms(batch, wrap_pos=False), results["energy"].view(-1).tolist()
    forces = results["forces"].cpu().split(batch.natoms.tolist())
    for number, atoms in enumerate(systems):
        if "pbc" in batch:
            atoms.pbc = batch.pbc.view(-1, 3)[number].tolist()
        found = {"energy": energies[number], "forces": forces[number].numpy()}
        if "stress" in results:
            stress = results["stress"].view(-1, 3, 3)[number].cpu().numpy()
            found["stress"] = full_3x3_to_voigt_6_stress(stress)
        atoms.calc = SinglePointCalculator(atoms, **found)
    return systems


class CompleteLBFGS(LBFGS):
    """fairchem's L-BFGS, whose trajectories have the structures as they are and end with the relaxed ones.

    fairchem writes the systems that go on, after each step: for one that has just converged the last
    frame is missing, and one that needs no step has none at all. Names of files are those of
    `ocp_scn.predictions.file_name`: no system's trajectory leaves the folder.
    """

    _moved: torch.Tensor | None = None  # systems that differ from their last frame; None: no frame yet

    def __init__(self, *args: Any, traj_names: Iterable[Any], **settings: Any) -> None:
        names = traj_names.tolist() if isinstance(traj_names, torch.Tensor) else traj_names
        super().__init__(*args, traj_names=[file_name(str(name)) for name in names], **settings)

    def run(self, fmax: float, steps: int) -> bool:
        """Relax the batch; return whether all systems converged."""
        self._moved = None
        converged = super().run(fmax, steps)
        if self.trajectories is not None and self._moved is None:
            for name, atoms in zip(self.traj_names, self._structures(), strict=True):
                ase.io.write(self.traj_dir / f"{name}.traj", atoms, format="traj")
        return converged

    def write(self) -> None:
        """Append a frame to the trajectory of every system that has moved since its last one."""
        moved = self._moved
        for number, atoms in enumerate(self._structures()):
            if moved is None or moved[number]:
                self.trajectories[number].write(atoms)
        self._moved = self.optimizable.update_mask.clone()

    def _structures(self) -> list[Atoms]:
        self.optimizable.get_potential_energies()  # makes the results those of the structures
        return to_atoms(self.optimizable.batch, self.optimizable.torch_results)


def relax(trainer: Any, systems: Sequence[Data], settings: dict[str, Any]) -> dict[str, Relaxed]:
    """Relax systems in one batch, or in smaller ones where the GPU's memory is too small for it.

    Args:
        trainer: fairchem's trainer with the model, which has to predict energy and forces.
        systems: initial structures with distinct ``sid``.
        settings: those of `relaxation_settings`, with a ``relax_opt.traj_dir`` for ``SID.traj``;
            the name is that of `ocp_scn.predictions.file_name`.

    Returns:
        The relaxed systems by their names.
    """
    ml_relaxation.LBFGS = CompleteLBFGS  # ml_relax looks it up by name
    copied = {**settings, "relax_opt": dict(settings["relax_opt"])}  # which it changes
    batch = ml_relaxation.ml_relax(batch=trainer.collater(list(systems)), model=trainer, **copied)
    sids = batch.sid.tolist() if isinstance(batch.sid, torch.Tensor) else batch.sid
    positions = batch.pos.cpu().numpy().astype(np.float64)
    bounds = np.cumsum(batch.natoms.tolist())[:-1]
    found = zip(sids, np.split(positions, bounds), batch.energy.view(-1).tolist(), strict=True)
    return {str(sid): Relaxed(pos, energy) for sid, pos, energy in found}


def system_name(system: Data) -> str:
    """Return a sample's ``sid`` as text, as it is in the files of results."""
    return str(system.sid.item() if isinstance(system.sid, torch.Tensor) else system.sid)


def relaxed_energy(system: Data) -> float | None:
    """Return a sample's relaxed energy, eV, under fairchem's name or OC20's; None if it has none."""
    found = (system[key] for key in ("energy_relaxed", "y_relaxed") if key in system)
    return next((float(energy) for energy in found), None)


def write_relaxed(path: Path, systems: Mapping[str, Relaxed]) -> None:
    """Write relaxed systems in the order of their names; the file is whole at any time.

    ``ids`` (S,), ``pos`` (A, 3) Å of all systems one after the other and ``chunk_idx`` (S - 1,), where
    they are split, are fairchem's; ``energy`` (S,) eV is that of the relaxed structures.
    """
    names = sorted(systems)
    arrays = {
        "ids": np.array(names),
        "pos": np.concatenate([systems[name].positions for name in names]),
        "chunk_idx": np.cumsum([len(systems[name].positions) for name in names])[:-1],
        "energy": np.array([systems[name].energy for name in names]),
    }
    with written_whole(path) as part:
        write_npz(part, arrays.items())


def read_relaxed(path: Path) -> dict[str, Relaxed]:
    """Read what `write_relaxed` wrote.

    Raises:
        InputError: for a file that cannot be read, one without energies, such as fairchem's own, or an id
            that comes twice.
    """
    file = Npz(path)
    arrays = {key: file[key] for key in ("ids", "energy", "pos", "chunk_idx")}
    faults = shape_faults(arrays) or doubled_ids(arrays["ids"])
    if faults:
        raise InputError(f"{path}: {faults[0]}")
    positions = np.split(arrays["pos"], arrays["chunk_idx"])
    values = zip(arrays["ids"].tolist(), positions, arrays["energy"].reshape(-1).tolist(), strict=True)
    return {name: Relaxed(pos, energy) for name, pos, energy in values}


def read_record(path: Path) -> dict[str, Any]:
    """Read what `Results.claim` wrote of a run's relaxations.

    Raises:
        InputError: for a file that cannot be read or is another one.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {cause(error)}") from error
    if not isinstance(record, dict) or not isinstance(record.get("src"), str):
        raise InputError(f"{path} is no record of relaxations: it names no data set, 'src'")
    return record


@dataclass(frozen=True)
class Results:
    """The folder of one run's relaxations, which a run under the same name goes on filling."""

    folder: Path

    @property
    def file(self) -> Path:
        """The file with all systems, written in the end."""
        return self.folder / RELAXED_FILE

    @property
    def _parts(self) -> Path:
        return self.folder / "relaxed_parts"

    def claim(self, settings: dict[str, Any], *, data: Mapping[str, Any], weights: str, write: bool) -> None:
        """Check that what is here was relaxed in the same way; ``write`` the record of a new run.

        Args:
            settings: of `relaxation_settings`.
            data: ``src`` of the data set, and its ``shard`` and ``total_shards`` if it has any.
            weights: of `weights_digest`.
            write: whether this process writes the record.

        Raises:
            InputError: if the settings, the data set, its shard or the weights are others.
        """
        optimizer = {key: value for key, value in settings["relax_opt"].items() if key != "traj_dir"}
        record = {**settings, "relax_opt": optimizer, "src": str(data["src"]), "weights": weights}
        record |= {key: data.get(key) for key in ("shard", "total_shards")}
        path = self.folder / RECORD_FILE
        if path.is_file():
            before = read_record(path)
            for key, value in record.items():
                if before.get(key) != value:
                    raise InputError(
                        f"{self.folder} has relaxations with {key}={before.get(key)!r}, not {value!r}; "
                        "choose another --timestamp-id"
                    )
        elif write:
            with written_whole(path) as part:
                part.write_text(json.dumps(record, indent=1) + "\n")

    def read(self) -> dict[str, Relaxed]:
        """Return the systems that were relaxed before."""
        files = [self.file] if self.file.is_file() else []
        found: dict[str, Relaxed] = {}
        for path in [*files, *sorted(self._parts.glob("*.npz"))]:
            found |= read_relaxed(path)
        return found

    def add(self, systems: Mapping[str, Relaxed]) -> None:
        """Keep the systems of a batch."""
        with refused_writes(self._parts):
            self._parts.mkdir(exist_ok=True)
        write_relaxed(self._parts / f"{file_name(next(iter(systems)))}.npz", systems)

    def finish(self, systems: Mapping[str, Relaxed]) -> None:
        """Write the file with all systems, and remove the parts."""
        write_relaxed(self.file, systems)
        shutil.rmtree(self._parts, ignore_errors=True)


def weights_digest(model: torch.nn.Module) -> str:
    """Return a short hash of a model's weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def relaxation_metrics(systems: Iterable[Data], relaxed: Mapping[str, Relaxed]) -> dict[str, float]:
    """Return fairchem's metrics of relaxed structures (IS2RS) and their energies (IS2RE).

    Args:
        systems: samples with the targets ``pos_relaxed`` (n, 3) Å and ``energy_relaxed`` (or
            ``y_relaxed``) eV; the others and those that are not among the relaxed ones are left out.
        relaxed: relaxed systems by name.

    Returns:
        fairchem's names and values, ``is2rs_positions_mae`` and so on, over free atoms; positions are
        compared with the nearest periodic image. Empty without targets.
    """
    evaluators = {task: Evaluator(task=task) for task in ("is2rs", "is2re")}
    totals: dict[str, dict[str, Any]] = {task: {} for task in evaluators}
    for system in systems:
        name = system_name(system)
        if name not in relaxed or "pos_relaxed" not in system or relaxed_energy(system) is None:
            continue
        prediction, target = _compared(system, relaxed[name])
        for task, evaluator in evaluators.items():
            totals[task] = evaluator.eval(prediction, target, totals[task])
    return {
        f"{task}_{name}": float(value["metric"])
        for task, metrics in totals.items()
        for name, value in metrics.items()
    }


def _compared(system: Data, relaxed: Relaxed) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a system's prediction and target in the form that fairchem's evaluator takes."""
    free = (system.fixed == 0).numpy()
    if len(relaxed.positions) != len(free):
        raise InputError(
            f"relaxed system {system_name(system)!r} has {len(relaxed.positions)} atoms, not {len(free)}"
        )
    target = system.pos_relaxed.double().numpy()[free]
    cell = system.cell.double().view(3, 3)
    pbc = system.pbc.view(3) if "pbc" in system else torch.ones(3, dtype=torch.bool)
    offset, _ = find_mic(relaxed.positions[free] - target, cell.numpy(), pbc.numpy())
    common = {"natoms": torch.tensor([int(free.sum())]), "cell": cell[None], "pbc": pbc}
    energies = torch.tensor([[relaxed.energy], [relaxed_energy(system)]], dtype=torch.float64)
    return (
        {"positions": torch.from_numpy(target + offset), "energy": energies[0], **common},
        {"positions": torch.from_numpy(target), "energy": energies[1], **common},
    )
