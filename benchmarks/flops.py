"""Floating-point operations of a forward pass, from the settings; a multiplication counts as two.

torch's ``FlopCounterMode`` finds the same in a forward, with the `FORMULAS` of the package's operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ocp_scn import SCNConfig, ops  # noqa: F401  # defines the operators
from ocp_scn.graph import Graph
from ocp_scn.sphere import grid_points_shape, num_coefficients


def needed_flops(config: SCNConfig, graph: Graph, num_atoms: int, *, training: bool) -> int:
    """Return the operations of a forward's matrix products and rotations."""
    return sum(forward_flops(config, graph, num_atoms, training=training).values())


def forward_flops(config: SCNConfig, graph: Graph, num_atoms: int, *, training: bool) -> dict[str, int]:
    """Return the operations by part of the network.

    Frames, Wigner matrices and whatever acts on each number alone are left out.
    """
    layers = [
        _layer_flops(config, graph, num_atoms, training=training, first=k == 0)
        for k in range(config.num_interactions)
    ]
    total = {name: sum(layer[name] for layer in layers) for name in layers[0]}
    channels, reduced = config.sphere_channels, config.sphere_channels_reduce
    heads = 1 + (config.regress_forces and config.direct_forces)
    samples = config.num_sphere_samples
    total["readout"] = num_atoms * samples * num_coefficients(config.lmax) * channels
    total["readout"] += heads * num_atoms * samples * (channels * channels + channels * reduced + reduced)
    return {name: 2 * value for name, value in total.items()}


def _layer_flops(
    config: SCNConfig, graph: Graph, num_atoms: int, *, training: bool, first: bool
) -> dict[str, int]:
    """Return the multiplications of a layer; the first one has signals with one coefficient."""
    reduced, features = config.sphere_channels_reduce, config.num_basis_functions
    taps = 1 if first else config.taps if training else config.eval_taps
    size = num_coefficients(config.lmax)  # K
    num_edges = sum(graph.sizes)
    layer = dict.fromkeys(("edge features", "message", "rotation", "grid", "reduce"), 0)
    layer["edge features"] = num_edges * features * (config.num_radial + features)
    for (degree, hidden), edges in zip(config.resolutions, graph.sizes, strict=True):
        kept = num_coefficients(degree, config.mmax)  # S
        wigner = sum((2 * min(k, config.mmax) + 1) * (2 * k + 1) for k in range(degree + 1))  # B
        # Both ends are turned into the edges' frames, and messages back.
        layer["rotation"] += edges * (2 * (1 if first else wigner) + wigner) * reduced
        layer["message"] += edges * hidden * features + edges * taps * hidden * (hidden + kept * reduced)
        inputs = 1 if first else kept
        if taps > 1:  # n and p of each |m| > 0 with the map's columns of both
            inputs += kept - (degree + 1)
        layer["message"] += edges * 2 * inputs * reduced * hidden
    if config.use_grid:
        points = math.prod(grid_points_shape(config.lmax, config.grid_resolution))
        wide, narrow = 2 * config.num_bands * reduced, 2 * reduced
        layer["grid"] = num_atoms * size * (2 * reduced * wide + narrow * reduced)
        layer["grid"] += num_atoms * points * (size * wide + wide * narrow + size * narrow)
    if config.sphere_channels != reduced:
        coefficients = size + (1 if first else size)  # restored and reduced
        layer["reduce"] = num_atoms * coefficients * config.sphere_channels * reduced
    return layer


# ------------------------------------------------------------------- the operators, for FlopCounterMode

Shape = Sequence[int]


def _node_to_edge(x: Shape, wigner: Shape, atom: Shape, *rest: Any, out_shape: Any = None) -> int:
    return _rotation(wigner, atom, channels=x[2])


def _edge_to_node(v: Shape, wigner: Shape, atom: Shape, *rest: Any, out_shape: Any = None) -> int:
    return _rotation(wigner, atom, channels=v[1])


def _edge_to_node_(
    sums: Shape, v: Shape, wigner: Shape, atom: Shape, *rest: Any, out_shape: Any = None
) -> int:
    return _rotation(wigner, atom, channels=v[1])


def _wigner_gradient(v: Shape, x: Shape, atom: Shape, *rest: Any, out_shape: Shape) -> int:
    return _rotation(out_shape, atom, channels=v[1])


def _rotation(wigner: Shape, atom: Shape, *, channels: int) -> int:
    """Return the operations for edges (E, B) with ends (E, n): B numbers of an edge times each channel."""
    edges, ends = atom
    return 2 * edges * ends * wigner[1] * channels


# The operators that multiply, as FlopCounterMode's ``custom_mapping``: its register of formulas is searched
# for other keys than what it registers in torch 2.4.
FORMULAS = {
    torch.ops.ocp_scn.node_to_edge: _node_to_edge,
    torch.ops.ocp_scn.edge_to_node: _edge_to_node,
    torch.ops.ocp_scn.edge_to_node_: _edge_to_node_,
    torch.ops.ocp_scn.wigner_gradient: _wigner_gradient,
}
