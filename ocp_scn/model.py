"""The Spherical Channel Network, without a framework around it.

C. L. Zitnick, A. Das, A. Kolluru, J. Lan, M. Shuaibi, A. Sriram, Z. Ulissi and B. Wood,
"Spherical Channels for Modeling Atomic Interactions", NeurIPS 2022 (arXiv 2206.14331).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ocp_scn.config import SCNConfig
from ocp_scn.graph import Graph
from ocp_scn.nn import (
    EdgeFeatures,
    Edges,
    GridAggregation,
    MessageBlock,
    RadialBasis,
    SphereReadout,
    polynomial_envelope,
    sphere_samples,
    split_edges,
    sum_messages,
)
from ocp_scn.nn.products import float32_products
from ocp_scn.ops.chunks import chunk_sizes
from ocp_scn.ops.sums import segment_sum
from ocp_scn.sphere import TableModule, packed_wigner, spherical_harmonics
from ocp_scn.state_dict import translate_state_dict


class EdgeBlock(nn.Module):
    """One layer: messages along the edges, their sum at the targets, and the grid network."""

    def __init__(self, config: SCNConfig) -> None:
        super().__init__()
        channels, reduced = config.sphere_channels, config.sphere_channels_reduce
        self.edge_features = EdgeFeatures(
            config.num_radial, config.num_basis_functions, config.max_num_elements
        )
        self.messages = nn.ModuleList(
            MessageBlock(
                lmax=degree,
                mmax=config.mmax,
                num_taps=config.taps,
                eval_num_taps=config.eval_taps,
                channels=reduced,
                hidden=hidden,
                num_features=config.num_basis_functions,
            )
            for degree, hidden in config.resolutions
        )
        same = channels == reduced
        self.downsample = nn.Identity() if same else nn.Linear(channels, reduced, bias=False)
        self.upsample = nn.Identity() if same else nn.Linear(reduced, channels, bias=False)
        self.aggregation = (
            GridAggregation(
                lmax=config.lmax,
                num_bands=config.num_bands,
                channels=reduced,
                resolution=config.grid_resolution,
            )
            if config.use_grid
            else None
        )

    @property
    def of_resolutions(self) -> list[MessageBlock]:
        """The message blocks of near and far edges."""
        return cast("list[MessageBlock]", self.messages)

    def forward(
        self, x: Tensor, elements: tuple[Tensor, Tensor], radial: Tensor, edges: Sequence[Edges]
    ) -> Tensor:
        """Return the layer's update (A, K, C) of signals x, (A, K, C), or (A, 1, C) before the first.

        Args:
            x: the signals.
            elements: (E,) atomic numbers of the sources, and of the targets.
            radial: (E, R) radial basis of the edges.
            edges: those of each resolution.
        """
        features = self.edge_features(radial, *elements).split([len(of.wigner) for of in edges])  # (E_r, F)
        x = self.downsample(x)  # (A, K, C')
        sums = sum_messages(self.of_resolutions, x, features, edges)  # (A, K, C')
        if self.aggregation is not None:
            sums = self.aggregation(x, sums)
        return self.upsample(sums)  # (A, K, C)


class SCN(TableModule):
    """Spherical Channel Network: energies, and forces if the settings ask for them, of atomic systems.

    Its state dict has the names of fairchem's built-in SCN, so each loads into the other model.

    Args:
        config: the settings.
    """

    def __init__(self, config: SCNConfig) -> None:
        super().__init__()
        self.config = config
        channels, reduced = config.sphere_channels, config.sphere_channels_reduce
        self.sphere_embedding = nn.Embedding(config.max_num_elements, channels)
        self.distance_expansion = RadialBasis(
            config.distance_function, config.num_radial, config.cutoff, config.basis_width_scalar
        )
        self.edge_blocks = nn.ModuleList(EdgeBlock(config) for _ in range(config.num_interactions))
        self.energy_head = SphereReadout(channels, reduced)
        direct = config.regress_forces and config.direct_forces
        self.force_head = SphereReadout(channels, reduced) if direct else None
        samples, weights = sphere_samples(config.num_sphere_samples, config.sphere_quadrature)
        self.register_table("energy_weights", weights)  # (N,)
        self.register_table("force_weights", weights[:, None] * samples)  # (N, 3)
        self.register_table("harmonics", spherical_harmonics(samples, config.lmax))  # (N, K)
        translate_state_dict(self)

    def forward(
        self, elements: Tensor, graph: Graph, frames: Tensor, system: Tensor, num_systems: int
    ) -> tuple[Tensor, Tensor | None]:
        """Compute energies and direct forces, in the units of the training targets.

        Args:
            elements: (A,) atomic numbers, below ``max_num_elements``.
            graph: the edges.
            frames: (E, 3, 3) edge frames, `ocp_scn.sphere.edge_frames`.
            system: (A,) index of the system each atom belongs to.
            num_systems: B.

        Returns:
            (B,) energies and (A, 3) forces (None without a readout for forces;
            `ocp_scn.gradients` then computes them from the energies).
        """
        distance = graph.vec.norm(dim=-1)
        radial = self.distance_expansion(distance)  # (E, R)
        edges = self._edges(graph, frames, distance, len(elements))
        embedding = self.sphere_embedding(elements)  # (A, C)
        ends = elements[graph.source], elements[graph.target]
        x = embedding[:, None]  # (A, 1, C), the coefficient (0, 0); from the first layer on (A, K, C)
        with self._precision(x.device.type):
            for k, block in enumerate(self.edge_blocks):
                update = block(x, ends, radial, edges).to(x.dtype)
                x = update if k == 0 else x + update

        values = self.harmonics @ x  # (A, N, C)
        per_atom = self.energy_head(values) @ self.energy_weights  # (A,)
        energy = segment_sum(per_atom.to(embedding), system, num_systems)
        return energy, None if self.force_head is None else self.force_head(values) @ self.force_weights

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        """Return the context of the layers, which decides the precision of their matrix products."""
        if self.config.compute_dtype == "bfloat16":
            return torch.autocast(device, dtype=torch.bfloat16)
        if self.config.compute_dtype == "tf32" and device == "cuda":
            return float32_products("high")
        return nullcontext()  # that of the weights, of torch's settings, or of an autocast around the model

    def _edges(self, graph: Graph, frames: Tensor, distance: Tensor, num_atoms: int) -> list[Edges]:
        """Return the edges of each resolution with what all layers need to turn signals."""
        envelope = polynomial_envelope(distance, self.config.cutoff) if self.config.smooth else None
        sizes, found = chunk_sizes(frames.device), []
        blocks = cast("EdgeBlock", self.edge_blocks[0]).of_resolutions
        of_resolution = [t.split(graph.sizes) for t in (graph.source, graph.target, frames)]
        for r, (source, target, of_edges) in enumerate(zip(*of_resolution, strict=True)):
            message = blocks[r]
            wigner = packed_wigner(of_edges, message.lmax, message.mmax)
            back = wigner if envelope is None else wigner * envelope.split(graph.sizes)[r][:, None]
            chunks = split_edges(
                source, target, num_atoms, message.max_edges(sizes), recorded=torch.is_grad_enabled()
            )
            found.append(Edges(wigner, back, chunks))
        return found
