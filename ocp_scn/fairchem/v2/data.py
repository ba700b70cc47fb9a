"""fairchem-core 2's data set of ASE databases, for any number of processes and any energy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from fairchem.core.datasets import base_dataset
from fairchem.core.datasets.ase_datasets import AseDBDataset
from fairchem.core.units.mlip_unit import mlip_unit
from fairchem.core.units.mlip_unit._metrics import Metrics

from ocp_scn.errors import InputError
from ocp_scn.fairchem import aselmdb, sqlite
from ocp_scn.fairchem.finite import check_label
from ocp_scn.fairchem.reading import load_arrays, with_load
from ocp_scn.fairchem.structures import near_origin, place_fault
from ocp_scn.fairchem.training_data import check_metadata

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


class _DamagedError(Exception):
    """A database that cannot be read, on the way through fairchem."""


class AseDatabase(AseDBDataset):
    """fairchem's data set of ASE databases (``format: ase_db``), which this is used in place of.

    ``energy_from: y_relaxed`` in its configuration takes that number of a row's data for the energy:
    fairchem reads no targets but a row's own energy, forces and stress. And a process that is started
    afresh opens the databases itself; fairchem's data set cannot be sent to one, so several ranks with
    ``num_workers`` above 0 would fail.

    Labels that ``key_mapping`` names and a row lacks become infinite, which leaves them out of fairchem's
    losses and metrics.

    Databases are opened to be read only, and no further than they go.

    Raises:
        InputError: if no row has a label that ``key_mapping`` names, or a database is damaged
            or not there.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for path in self.paths:
            check_metadata(path)
        mlip_unit.Metrics = LabelledMetrics  # evaluations look it up by name
        rows = super().get_atoms
        for name in self._labels:
            computed = name == "energy" and "energy_from" in self.config
            if not computed and not any(name in self._known(rows(i)) for i in range(len(self))):
                raise InputError(f"{self.config['src']}: no row has {name!r}, which key_mapping names")

    def get_atoms(self, idx: int) -> Atoms:
        """Return the structure of row ``idx``, near the origin; its info has the row's data.

        Raises:
            InputError: if the row has no atoms, no number of the name ``energy_from``, a label that is not
                finite or too large for any structure, or positions or a cell that fairchem cannot wrap.
        """
        atoms = super().get_atoms(idx)
        fault = place_fault(atoms) if len(atoms) else "no atoms"
        if fault is not None:
            raise InputError(f"{self.config['src']}: row {idx} (sid {atoms.info.get('sid')}): {fault}")
        name = self.config.get("energy_from")
        if name is not None:
            if name not in atoms.info:
                raise InputError(f"{self.config['src']}: row {idx} has no {name!r} (energy_from)")
            atoms.info["energy"] = float(atoms.info[name])
        known = self._known(atoms)
        for label in self._labels:
            if label not in known:
                atoms.info[label] = np.full(_SHAPES[label](len(atoms)), np.inf)[()]
            else:
                check_label(f"{self.config['src']}: row {idx}", label, known[label])
        return near_origin(atoms)

    @property
    def _labels(self) -> list[str]:
        return [name for name in _SHAPES if name in (self.config.get("key_mapping") or {})]

    @staticmethod
    def _known(atoms: Atoms) -> dict[str, Any]:
        """Return the labels of a row where fairchem looks for them."""
        return {**({} if atoms.calc is None else atoms.calc.results), **atoms.info}

    @staticmethod
    def connect_db(address: str | Path, connect_args: dict[str, Any] | None = None) -> Any:
        """Open a database to read it; fairchem's takes an error of a value for another kind of file."""
        path = Path(address)
        try:
            if path.suffix == aselmdb.SUFFIX:
                return aselmdb.connect(path, **(connect_args or {}))
            if path.suffix == sqlite.SUFFIX and path.is_file():
                return sqlite.connect(path)
        except InputError as error:
            raise _DamagedError(str(error)) from error
        return AseDBDataset.connect_db(address, connect_args)

    def _load_dataset_get_ids(self, config: dict[str, Any]) -> list[int]:
        try:
            found = super()._load_dataset_get_ids(config)
        except _DamagedError as error:
            raise InputError(str(error)) from error
        if not found:
            raise InputError(f"src={config['src']!r} has no structures; expected a folder of *.aselmdb")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dbs": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load_dataset_get_ids(self.config)
