"""Floating-point operations of an SCN forward, counted from its settings."""

from __future__ import annotations

from ocp_scn import SCNConfig
from ocp_scn.graph import Graph
from ocp_scn.sphere import grid_points_shape, num_coefficients


def forward_flops(config: SCNConfig, graph: Graph, num_atoms: int, *, training: bool) -> dict[str, int]:
    """Return two operations for each multiplication of a matrix product, by part of the network.

    ``rotation`` is what block-diagonal Wigner matrices need; ``rotation as dense`` is what is spent on top
    without kernels, because one dense product a group of edges is faster than many small ones.
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
    layer = dict.fromkeys(("edge features", "message", "rotation", "rotation as dense", "grid", "reduce"), 0)
    layer["edge features"] = num_edges * features * (config.num_radial + features)
    of_resolution = zip(config.resolutions, graph.sizes, graph.widths, strict=True)
    for (degree, hidden), edges, width in of_resolution:
        kept = num_coefficients(degree, config.mmax)  # S
        places = num_atoms * max(width, 1)
        blocks = sum((2 * min(k, config.mmax) + 1) * (2 * k + 1) for k in range(degree + 1))
        dense = kept * num_coefficients(degree)
        # Both ends are turned into the edges' frames, and messages back.
        needed = edges * blocks * (1 if first else 3)
        spent = places * dense + (edges + places) * (1 if first else dense)
        layer["rotation"] += needed * reduced
        layer["rotation as dense"] += (spent - needed) * reduced
        layer["message"] += edges * hidden * features + edges * taps * hidden * (hidden + kept * reduced)
        if first:
            layer["message"] += edges * 2 * reduced * hidden
        elif taps == 1:
            layer["message"] += edges * 2 * kept * reduced * hidden
        else:
            zero = degree + 1
            layer["message"] += edges * 2 * (zero + 2 * (kept - zero)) * reduced * hidden
            layer["message"] += edges * taps * (2 * config.mmax + 1) * hidden  # waves
            layer["message"] += edges * kept * taps * kept * reduced  # back to one frame
    if config.use_grid:
        points = 1
        for n in grid_points_shape(config.lmax, config.grid_resolution):
            points *= n
        wide, narrow = 2 * config.num_bands * reduced, 2 * reduced
        layer["grid"] = num_atoms * size * (2 * reduced * wide + narrow * reduced)
        layer["grid"] += num_atoms * points * (size * wide + wide * narrow + size * narrow)
    if config.sphere_channels != reduced:
        coefficients = size + (1 if first else size)  # restored and reduced
        layer["reduce"] = num_atoms * coefficients * config.sphere_channels * reduced
    return layer


def needed_flops(config: SCNConfig, graph: Graph, num_atoms: int, *, training: bool) -> int:
    """Return the operations that the mathematics needs: all but the dense rotations' surplus."""
    parts = forward_flops(config, graph, num_atoms, training=training)
    return sum(value for name, value in parts.items() if name != "rotation as dense")
