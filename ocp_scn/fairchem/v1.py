"""The model in the registry of fairchem-core 1.10 (``python main.py``)."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from fairchem.core.models.base import GraphModelMixin
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.fairchem.neighbors import check_batch, find_edges
from ocp_scn.graph import build_graph
from ocp_scn.model import SCN
from ocp_scn.sphere import edge_frames


class SphericalChannelNetwork(SCN, GraphModelMixin):
    """SCN as a model of fairchem-core 1.10: batches in, a dictionary of predictions out.

    Takes the settings of :class:`ocp_scn.config.SCNConfig` as keywords. While training, the roll of
    every edge is drawn uniformly from torch's generator at each call; in evaluation it is 0, so
    the same input gives the same bits.

    Raises:
        InputError: for an unknown setting or a value that is not allowed.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(SCNConfig.from_settings(settings))
        # Read by fairchem's trainer, calculator and collater.
        self.regress_forces = self.config.regress_forces
        self.otf_graph = self.config.otf_graph
        self.cutoff = self.config.cutoff

    def forward(self, data: Any) -> dict[str, Tensor]:  # type: ignore[override]  # batches, not tensors
        """Predict the energies and forces of a batch.

        Args:
            data: fairchem's batch of B systems with A atoms in all: ``pos`` (A, 3) Å, ``cell``
                (B, 3, 3) Å, ``atomic_numbers`` (A,), ``natoms`` (B,), ``batch`` (A,).

        Returns:
            ``energy`` (B,) and, with ``regress_forces``, ``forces`` (A, 3), normalised as the
            training targets.

        Raises:
            InputError: for positions that are not finite, two atoms at one place, or an atomic
                number the model has no embedding for.
        """
        start = time.perf_counter()
        check_batch(data, self.config)
        source, target, vec = find_edges(data, self.config)
        graph = build_graph(
            source,
            target,
            vec,
            num_resolutions=self.config.num_resolutions,
            max_num_neighbors=self.config.max_num_neighbors,
        )
        draw = torch.rand if self.training else torch.zeros
        roll = draw(len(graph.vec), dtype=vec.dtype, device=vec.device)
        # As in the published model, forces have a readout of their own and no gradient flows
        # through the frames.
        frames = edge_frames(graph.vec.detach(), 2 * math.pi * roll)
        energy, forces = super().forward(
            data.atomic_numbers.long(), graph, frames, data.batch, len(data.natoms)
        )
        if self.config.show_timing_info:
            logging.info("forward of %d atoms: %.3f s", len(data.pos), time.perf_counter() - start)
        return {"energy": energy} if forces is None else {"energy": energy, "forces": forces}
