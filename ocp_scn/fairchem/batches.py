"""The network on fairchem's batches, for both of its lines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ocp_scn.fairchem.neighbors import Search, batch_graph
from ocp_scn.gradients import edge_gradients, forces_from_edges, stress_from_edges
from ocp_scn.graph import Graph
from ocp_scn.model import SCN
from ocp_scn.sphere import edge_frames, random_rolls


class BatchSCN(SCN):
    """SCN with the steps from a batch of fairchem to its predictions."""

    search: Search | None = None  # a radius graph with the interface of fairchem's; None is this package's

    def predict(
        self,
        data: Any,
        *,
        stress: bool,
        create_graph: bool,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the predictions for a batch, normalised as the training targets are.

        Args:
            data: fairchem's batch of B systems with A atoms in all.
            stress: compute the stress too; with gradient forces only.
            create_graph: someone will differentiate gradient forces, to train on them say.
            generator: draws random rolls; torch's own if None.

        Returns:
            ``energy`` (B,); with ``regress_forces``, ``forces`` (A, 3); ``stress`` (B, 3, 3) if wanted.

        Raises:
            InputError: for structures that the model cannot compute.
        """
        if self.config.direct_forces or not self.config.regress_forces:
            energy, forces = self._energy(data, self._graph(data), generator)
            return {"energy": energy} if forces is None else {"energy": energy, "forces": forces}

        # fairchem evaluates under no_grad, calculators perhaps in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            if data.pos.is_inference():
                data = data.clone()  # autograd refuses tensors made in inference mode
            graph = self._graph(data)
            if not graph.vec.requires_grad:
                graph.vec.requires_grad_()
            energy, _ = self._energy(data, graph, generator)
            gradient = edge_gradients(energy, graph.vec, create_graph=create_graph)
        predictions = {"energy": energy, "forces": forces_from_edges(gradient, graph, len(data.pos))}
        if stress:
            predictions["stress"] = stress_from_edges(gradient, graph, data.batch, data.cell)
        return predictions if create_graph else {name: value.detach() for name, value in predictions.items()}

    def _graph(self, data: Any) -> Graph:
        return batch_graph(data, self.config, self.search)

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
