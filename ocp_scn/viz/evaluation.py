"""A network's evaluation of a structure, and one of its edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

from ocp_scn.calculator import batch_of
from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.graph import Graph
from ocp_scn.model import SCN
from ocp_scn.sphere import edge_frames
from ocp_scn.viz.picture import Edge
from ocp_scn.viz.signals import edge_functions, layer_signals


class Evaluated(NamedTuple):
    """A network's evaluation of a structure.

    Attributes:
        network: the network.
        atoms: the structure.
        graph: its edges.
        frames: (E, 3, 3) their frames.
        signals: (A, (L + 1)**2, C) ahead of the first layer and after each.
    """

    network: SCN
    atoms: Atoms
    graph: Graph
    frames: torch.Tensor
    signals: list[torch.Tensor]


def evaluate(network: SCN, atoms: Atoms) -> Evaluated:
    """Evaluate a structure in float64, without rolls of the edge frames.

    Raises:
        InputError: for structures that the model cannot compute.
    """
    data = batch_of([atoms], torch.device("cpu"), torch.float64)
    known = network.known if isinstance(network, BatchSCN) else None
    graph = batch_graph(data, network.config, known=known)
    frames = edge_frames(graph.vec, torch.zeros_like(graph.vec[:, 0]))
    signals = layer_signals(network, data.atomic_numbers, graph, frames)
    return Evaluated(network, atoms, graph, frames, signals)


def edge_of(found: Evaluated, channel: int, number: int) -> Edge:
    """Return edge ``number`` with what the second layer's message reads, or that of the only layer."""
    graph, config = found.graph, found.network.config
    layer = min(2, config.num_interactions)
    source, target = int(graph.source[number]), int(graph.target[number])
    degree, _ = config.resolutions[int(number >= graph.sizes[0])]
    functions = edge_functions(
        found.signals[layer - 1][[source, target], :, channel],
        found.frames[number],
        degree=degree,
        mmax=config.mmax,
        num_taps=config.eval_taps,
    )
    vec, frame = graph.vec[number].numpy(), found.frames[number].numpy()
    return Edge(source, target, vec, frame, layer, degree, config.mmax, functions)


def find_edge(found: Evaluated, ends: Sequence[int] | None, drawn: Sequence[int]) -> int | None:
    """Return the number of the shortest edge between two atoms, or of drawn ones; None if those have none.

    Between drawn atoms, edges between different elements come first.

    Raises:
        InputError: if there is no edge with these ends.
    """
    source, target = found.graph.source.numpy(), found.graph.target.numpy()
    if ends is None:
        candidates = np.flatnonzero(np.isin(source, drawn) & np.isin(target, drawn))
    else:
        candidates = np.flatnonzero((source == ends[0]) & (target == ends[1]))
        if len(candidates) == 0:
            raise InputError(f"--edge {ends[0]} {ends[1]}: the structure's graph has no such edge")
    if len(candidates) == 0:
        return None
    numbers, length = found.atoms.numbers, found.graph.vec.norm(dim=1).numpy()
    same = numbers[source[candidates]] == numbers[target[candidates]]
    return int(candidates[np.lexsort((length[candidates], same))[0]])
