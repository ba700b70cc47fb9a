"""fairchem-core 2's data set of ASE databases, for any number of processes and any energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from fairchem.core.datasets import base_dataset
from fairchem.core.datasets.ase_datasets import AseDBDataset
from fairchem.core.units.mlip_unit import mlip_unit
from fairchem.core.units.mlip_unit._metrics import Metrics

from ocp_scn.errors import InputError
from ocp_scn.fairchem.guards import load_arrays, with_load

base_dataset.np = with_load(np, load_arrays)  # for metadata.npz

_SHAPES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "energy": lambda natoms: (),
    "forces": lambda natoms: (natoms, 3),
    "stress": lambda natoms: (3, 3),
}


class LabelledMetrics(Metrics):
    """fairchem's running metrics, which batches without labels leave as they are; fairchem divides by 0."""

    def __iadd__(self, other: Metrics) -> Metrics:
        return super().__iadd__(other) if other.numel else self


class AseDatabase(AseDBDataset):
    """fairchem's data set of ASE databases (``format: ase_db``), which this is used in place of.

    ``energy_from: y_relaxed`` in its configuration takes that number of a row's data for the energy:
    fairchem reads no targets but a row's own energy, forces and stress. And a process that is started
    afresh opens the databases itself; fairchem's data set cannot be sent to one, so several ranks with
    ``num_workers`` above 0 would fail.

    Labels that ``key_mapping`` names and a row lacks become infinite, which leaves them out of fairchem's
    losses and metrics.

    Raises:
        InputError: if no row has a label that ``key_mapping`` names.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        mlip_unit.Metrics = LabelledMetrics  # evaluations look it up by name
        rows = super().get_atoms
        for name in self._labels:
            computed = name == "energy" and "energy_from" in self.config
            if not computed and not any(name in self._known(rows(i)) for i in range(len(self))):
                raise InputError(f"{self.config['src']}: no row has {name!r}, which key_mapping names")

    def get_atoms(self, idx: int) -> Atoms:
        """Return the structure of row ``idx``; its info has the row's data.

        Raises:
            InputError: if the row has no number of the name ``energy_from``, or a label that is not finite.
        """
        atoms = super().get_atoms(idx)
        name = self.config.get("energy_from")
        if name is not None:
            if name not in atoms.info:
                raise InputError(f"{self.config['src']}: row {idx} has no {name!r} (energy_from)")
            atoms.info["energy"] = float(atoms.info[name])
        known = self._known(atoms)
        for label in self._labels:
            if label not in known:
                atoms.info[label] = np.full(_SHAPES[label](len(atoms)), np.inf)[()]
            elif not np.isfinite(known[label]).all():
                source = self.config["src"]
                raise InputError(f"{source}: row {idx} has {label} with numbers that are not finite")
        return atoms

    @property
    def _labels(self) -> list[str]:
        return [name for name in _SHAPES if name in (self.config.get("key_mapping") or {})]

    @staticmethod
    def _known(atoms: Atoms) -> dict[str, Any]:
        """Return the labels of a row where fairchem looks for them."""
        return {**({} if atoms.calc is None else atoms.calc.results), **atoms.info}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dbs": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load_dataset_get_ids(self.config)
