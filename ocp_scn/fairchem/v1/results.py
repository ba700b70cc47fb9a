"""The file of a run's predictions, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from fairchem.core.trainers import OCPTrainer

from ocp_scn.fairchem.files import written_whole


class WholeResultsTrainer(OCPTrainer):
    """fairchem's trainer, which writes predictions beside their place until they are complete."""

    config: Any
    name: str

    def save_results(self, predictions: Any, results_file: str | None, keys: Any = None) -> None:
        """Write the predictions of all ranks to ``NAME_FILE.npz``.

        Raises:
            InputError: where it cannot be written.
        """
        if results_file is None or not distutils.is_master():
            super().save_results(predictions, results_file, keys)
            return
        folder = Path(self.config["cmd"]["results_dir"])
        written = folder / f"{self.name}_{results_file}.part.npz"
        try:
            with written_whole(folder / f"{self.name}_{results_file}.npz") as part:
                super().save_results(predictions, f"{results_file}.part", keys)
                written.replace(part)
        finally:
            written.unlink(missing_ok=True)
