"""The Spherical Channel Network, without a framework around it.

C. L. Zitnick, A. Das, A. Kolluru, J. Lan, M. Shuaibi, A. Sriram, Z. Ulissi and B. Wood,
"Spherical Channels for Modeling Atomic Interactions", NeurIPS 2022 (arXiv 2206.14331).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocp_scn.config import SCNConfig
from ocp_scn.graph import Graph
from ocp_scn.nn import (
    EdgeFeatures,
    GridAggregation,
    MessageBlock,
    RadialBasis,
    SphereReadout,
    polynomial_envelope,
    sphere_samples,
)
from ocp_scn.sphere import TableModule, num_coefficients, spherical_harmonics, wigner_rows
from ocp_scn.state_dict import translate_state_dict


class EdgeTensors(NamedTuple):
    """What all layers share about the edges.

    Attributes:
        radial: (E, R) radial basis.
        rows: Wigner rows of each resolution.
        rows_back: the same times the envelope of the messages.
    """

    radial: Tensor
    rows: list[list[Tensor]]
    rows_back: list[list[Tensor]]


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

    def forward(self, x: Tensor, elements: Tensor, graph: Graph, edges: EdgeTensors) -> Tensor:
        """Return the layer's update of the signals x, both (A, K, C)."""
        features = self.edge_features(edges.radial, elements[graph.source], elements[graph.target])  # (E, F)
        x = self.downsample(x)  # (A, K, C')
        total = torch.zeros_like(x)
        for message, rows, rows_back, e, source, target in zip(
            self.messages,
            edges.rows,
            edges.rows_back,
            features.split(graph.sizes),
            graph.source.split(graph.sizes),
            graph.target.split(graph.sizes),
            strict=True,
        ):
            size = num_coefficients(len(rows) - 1)  # K_r
            values = message(x[:, :size], e, source, target, rows, rows_back)  # (E_r, K_r, C')
            total[:, :size].index_add_(0, target, values)
        if self.aggregation is not None:
            total = self.aggregation(x, total)
        return self.upsample(total)  # (A, K, C)


class SCN(TableModule):
    """Spherical Channel Network: energies, and forces if asked for, of atomic systems.

    Its state dict bears the names of fairchem's built-in SCN; those of either load into the other.

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
            frames: (E, 3, 3) edge frames, :func:`ocp_scn.sphere.edge_frames`.
            system: (A,) index of the system each atom belongs to.
            num_systems: B.

        Returns:
            (B,) energies and (A, 3) forces (None without a readout of their own;
            :mod:`ocp_scn.gradients` then makes them of the energies).
        """
        edges = self._edge_tensors(graph, frames)
        embedding = self.sphere_embedding(elements)  # (A, C)
        higher = embedding.new_zeros(
            len(elements), num_coefficients(self.config.lmax) - 1, embedding.shape[-1]
        )
        x = torch.cat([embedding[:, None], higher], dim=1)  # (A, K, C)
        for k, block in enumerate(self.edge_blocks):
            update = block(x, elements, graph, edges)
            x = update if k == 0 else x + update

        values = self.harmonics @ x  # (A, N, C)
        per_atom = self.energy_head(values) @ self.energy_weights  # (A,)
        energy = embedding.new_zeros(num_systems).index_add_(0, system, per_atom)
        return energy, None if self.force_head is None else self.force_head(values) @ self.force_weights

    def _edge_tensors(self, graph: Graph, frames: Tensor) -> EdgeTensors:
        distance = graph.vec.norm(dim=-1)
        rows = [
            wigner_rows(f, degree, self.config.mmax)
            for f, (degree, _) in zip(frames.split(graph.sizes), self.config.resolutions, strict=True)
        ]
        rows_back = rows
        if self.config.smooth:
            envelope = polynomial_envelope(distance, self.config.cutoff)[:, None, None].split(graph.sizes)
            rows_back = [[e * row for row in blocks] for e, blocks in zip(envelope, rows, strict=True)]
        return EdgeTensors(self.distance_expansion(distance), rows, rows_back)
