"""The network on fairchem's batches, for both of its lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.fairchem.finite import check_finite_weights
from ocp_scn.fairchem.neighbors import Search, batch_graph
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.gradients import edge_gradients, forces_from_edges, stress_from_edges
from ocp_scn.model import SCN
from ocp_scn.ops.chunks import MOST_REPLAYED_EDGES
from ocp_scn.replay import RECORDERS, NetworkInput, Replays
from ocp_scn.sphere import edge_frames, random_rolls


class BatchSCN(SCN):
    """SCN with the steps from a batch of fairchem to its predictions."""

    known: KnownElements | None = None  # the elements it was trained on, to be minded in evaluation
    search: Search | None = None  # a radius graph with the interface of fairchem's; None is this package's

    def __init__(self, config: SCNConfig) -> None:
        super().__init__(config)
        self.replays = Replays()

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
        if not self._has_gradient_forces():
            return self._predict(data, stress=False, recorded=torch.is_grad_enabled(), generator=generator)
        # fairchem evaluates under no_grad, calculators perhaps in inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            if data.pos.is_inference():
                data = data.clone()  # autograd refuses tensors made in inference mode
            return self._predict(data, stress=stress, recorded=create_graph, generator=generator)

    def _predict(
        self, data: Any, *, stress: bool, recorded: bool, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return the predictions; ``recorded`` says whether someone may differentiate them."""
        x = self._input(data, generator)
        few = len(x.roll) <= MOST_REPLAYED_EDGES and x.roll.device.type in RECORDERS
        if recorded or self.training or not few or not self.config.cuda_graphs:
            return self._predictions(x, stress=stress, recorded=recorded)
        padded = x.padded()
        sizes = padded.graph.sizes

        def function(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
            return self._predictions(NetworkInput.of(tensors, sizes), stress=stress, recorded=False)

        found = self.replays(function, [t.detach() for t in padded.tensors()], (sizes, stress))
        return {name: y[: len(x.elements if name == "forces" else x.cell)] for name, y in found.items()}

    def _input(self, data: Any, generator: torch.Generator | None) -> NetworkInput:
        known = None if self.training else self.known
        graph = batch_graph(data, self.config, self.search, known)
        roll = self._rolls(graph.vec, generator)
        return NetworkInput(data.atomic_numbers.long(), data.batch, data.cell, graph, roll)

    def _predictions(self, x: NetworkInput, *, stress: bool, recorded: bool) -> dict[str, Tensor]:
        if not self._has_gradient_forces():
            energy, forces = self._energy(x)
            return {"energy": energy} if forces is None else {"energy": energy, "forces": forces}
        graph = x.graph
        with torch.enable_grad():
            if not graph.vec.requires_grad:
                graph = replace(graph, vec=graph.vec.detach().requires_grad_())
            energy, _ = self._energy(x._replace(graph=graph))
            gradient = edge_gradients(energy, graph.vec, create_graph=recorded)
        predictions = {"energy": energy, "forces": forces_from_edges(gradient, graph, len(x.elements))}
        if stress:
            predictions["stress"] = stress_from_edges(gradient, graph, x.system, x.cell)
        return predictions if recorded else {name: value.detach() for name, value in predictions.items()}

    def _energy(self, x: NetworkInput) -> tuple[Tensor, Tensor | None]:
        # As in the published model, no gradient flows through the frames of direct forces.
        vec = x.graph.vec.detach() if self.config.direct_forces else x.graph.vec
        return super().forward(x.elements, x.graph, edge_frames(vec, x.roll), x.system, len(x.cell))

    def _rolls(self, vec: Tensor, generator: torch.Generator | None) -> Tensor:
        kind = self.config.training_roll if self.training else self.config.evaluation_roll
        if kind == "random":
            return random_rolls(len(vec), dtype=vec.dtype, device=vec.device, generator=generator)
        return torch.zeros_like(vec[:, 0])

    def _has_gradient_forces(self) -> bool:
        return self.config.regress_forces and not self.config.direct_forces

    # --- weights that go to another place in memory, where a recording would not read them

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.replays.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        check_finite_weights("what is to be loaded", {k: v for k, v in state.items() if k.startswith(prefix)})
        self.replays.clear()
        super()._load_from_state_dict(state, prefix, *args)
