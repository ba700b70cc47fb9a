"""fairchem-core 2's data set of ASE databases, for any number of processes and any energy."""

from __future__ import annotations

from typing import Any

from ase import Atoms
from fairchem.core.datasets.ase_datasets import AseDBDataset

from ocp_scn.errors import InputError


class AseDatabase(AseDBDataset):
    """fairchem's data set of ASE databases (``format: ase_db``), which this is used in place of.

    ``energy_from: y_relaxed`` in its configuration takes that number of a row's data for the energy:
    fairchem reads no targets but a row's own energy, forces and stress. And a process that is started
    afresh opens the databases itself; fairchem's data set cannot be sent to one, so several ranks with
    ``num_workers`` above 0 would fail.
    """

    def get_atoms(self, idx: int) -> Atoms:
        """Return the structure of row ``idx``; its info has the row's data.

        Raises:
            InputError: if the row has no number of the name ``energy_from``.
        """
        atoms = super().get_atoms(idx)
        name = self.config.get("energy_from")
        if name is not None:
            if name not in atoms.info:
                raise InputError(f"{self.config['src']}: row {idx} has no {name!r} (energy_from)")
            atoms.info["energy"] = float(atoms.info[name])
        return atoms

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dbs": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load_dataset_get_ids(self.config)
