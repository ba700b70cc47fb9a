"""The model in the registry of fairchem-core 1.10 (``python main.py``)."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from fairchem.core.models.base import GraphModelMixin
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.fairchem.neighbors import check_batch, find_edges
from ocp_scn.gradients import edge_gradients, forces_from_edges, stress_from_edges
from ocp_scn.graph import Graph, build_graph
from ocp_scn.model import SCN
from ocp_scn.sphere import edge_frames, random_rolls


class SphericalChannelNetwork(SCN, GraphModelMixin):
    """SCN as a model of fairchem-core 1.10: batches in, a dictionary of predictions out.

    Takes the settings of :class:`ocp_scn.config.SCNConfig` as keywords. While training, the roll of
    every edge is drawn uniformly at each call; in evaluation it is 0, so the same input gives the
    same bits (``training_roll`` and ``evaluation_roll`` change either).

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
            InputError: for positions that are not finite, two atoms at one place, or an atomic
                number the model has no embedding for.
        """
        start = time.perf_counter()
        check_batch(data, self.config)
        predictions = self._predict(data, generator)
        if self.config.show_timing_info:
            logging.info("forward of %d atoms: %.3f s", len(data.pos), time.perf_counter() - start)
        return predictions

    def _predict(self, data: Any, generator: torch.Generator | None) -> dict[str, Tensor]:
        if self.config.direct_forces or not self.config.regress_forces:
            energy, forces = self._energy(data, self._graph(data), generator)
            return {"energy": energy} if forces is None else {"energy": energy, "forces": forces}

        keep = torch.is_grad_enabled()  # someone will differentiate the forces
        # fairchem evaluates under no_grad, calculators perhaps in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            if data.pos.is_inference():
                data = data.clone()  # autograd refuses tensors made in inference mode
            graph = self._graph(data)
            if not graph.vec.requires_grad:
                graph.vec.requires_grad_()
            energy, _ = self._energy(data, graph, generator)
            gradient = edge_gradients(energy, graph.vec, create_graph=keep)
        predictions = {
            "energy": energy if keep else energy.detach(),
            "forces": forces_from_edges(gradient, graph, len(data.pos)),
        }
        if self.config.regress_stress:
            predictions["stress"] = stress_from_edges(gradient, graph, data.batch, data.cell)
        return predictions

    def _graph(self, data: Any) -> Graph:
        return build_graph(
            *find_edges(data, self.config),
            num_resolutions=self.config.num_resolutions,
            max_num_neighbors=self.config.max_num_neighbors,
        )

    def _energy(
        self, data: Any, graph: Graph, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        kind = self.config.training_roll if self.training else self.config.evaluation_roll
        if kind == "random":
            roll = random_rolls(
                len(graph.vec), dtype=graph.vec.dtype, device=graph.vec.device, generator=generator
            )
        else:
            roll = torch.zeros_like(graph.vec[:, 0])
        # As in the published model, no gradient flows through the frames of direct forces.
        vec = graph.vec.detach() if self.config.direct_forces else graph.vec
        return super().forward(
            data.atomic_numbers.long(), graph, edge_frames(vec, roll), data.batch, len(data.natoms)
        )
