"""The model in the registry of fairchem-core 1.10 (``python main.py``)."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from fairchem.core.models.base import GraphModelMixin
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.inputs import check_tensors


class SphericalChannelNetwork(BatchSCN, GraphModelMixin):
    """SCN as a model of fairchem-core 1.10: batches in, a dictionary of predictions out.

    Takes the settings of `ocp_scn.config.SCNConfig` as keywords. In training, the roll of
    every edge is drawn uniformly at each call. In evaluation it is 0, so the same input gives the
    same bits. ``training_roll`` and ``evaluation_roll`` change this.

    Raises:
        InputError: for an unknown setting or a value that is not allowed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(SCNConfig.from_settings(settings))
        # Read by fairchem's trainer, calculator and collater.
        self.regress_forces = self.config.regress_forces
        self.otf_graph = self.config.otf_graph
        self.cutoff = self.config.cutoff

    def forward(  # type: ignore[override]  # batches, not tensors
        self, data: Any, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Predict the energies and forces of a batch.

        Args:
            data: fairchem's batch of B systems with A atoms in all: ``pos`` (A, 3) Å, ``cell``
                (B, 3, 3) Å, ``atomic_numbers`` (A,), ``natoms`` (B,), ``batch`` (A,).
            generator: draws random rolls; torch's own if None.

        Returns:
            ``energy`` (B,); with ``regress_forces``, ``forces`` (A, 3); with ``regress_stress``,
            ``stress`` (B, 3, 3). Normalised as the training targets; forces and stress that are
            derivatives are normalised as the energy is.

        Raises:
            InputError: for values that are no tensors, positions that are not finite, two atoms at one
                place, an atomic number without an embedding, or positions in another precision than the
                weights.
        """
        check_tensors(data)
        weights = self.sphere_embedding.weight.dtype
        if data.pos.dtype != weights:
            raise InputError(
                f"positions are {data.pos.dtype} and weights {weights}; expected one precision "
                "(OCPCalculator rounds positions to float32: it cannot compute in another)"
            )
        start = time.perf_counter()
        predictions = self.predict(
            data,
            stress=self.config.regress_stress,
            create_graph=torch.is_grad_enabled(),
            generator=generator,
        )
        if self.config.show_timing_info:
            logging.info("forward of %d atoms: %.3f s", len(data.pos), time.perf_counter() - start)
        return predictions
