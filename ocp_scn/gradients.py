"""Forces and stress as derivatives of the energy."""

from __future__ import annotations

import torch
from torch import Tensor

from ocp_scn.graph import Graph
from ocp_scn.ops.sums import segment_sum, sum_at_atoms


def edge_gradients(energy: Tensor, vec: Tensor, *, create_graph: bool) -> Tensor:
    """Return dE/dvec (E, 3), the derivative of all energies with respect to the edge vectors, eV/Å.

    An SCN's energy depends on positions through edge vectors alone, so this one derivative gives
    forces and stress.

    Args:
        energy: (B,) energies computed from ``vec``.
        vec: (E, 3) edge vectors that require a gradient.
        create_graph: keep the graph, to differentiate the result again when training on it.
    """
    if not energy.requires_grad:  # no edge anywhere, and frozen weights
        return torch.zeros_like(vec)
    (gradient,) = torch.autograd.grad(
        energy.sum(), vec, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return gradient


def forces_from_edges(gradient: Tensor, graph: Graph, num_atoms: int) -> Tensor:
    """Return -dE/dpos (A, 3), given dE/dvec (E, 3) and vec = pos[source] - pos[target] + offset."""
    of_ends = torch.stack([-gradient, gradient], dim=1)  # (E, 2, 3)
    return sum_at_atoms(of_ends, torch.stack([graph.source, graph.target], dim=1), num_atoms)


def stress_from_edges(gradient: Tensor, graph: Graph, system: Tensor, cell: Tensor) -> Tensor:
    """Return the stress (B, 3, 3), eV/Å^3: dE/dstrain / volume for a symmetric strain of atoms and cell.

    A strain e changes vec to vec + vec e, so dE/de = sum over edges of vec^T dE/dvec, symmetrised.

    Args:
        gradient: (E, 3) dE/dvec.
        graph: the edges.
        system: (A,) index of each atom's system.
        cell: (B, 3, 3) cell vectors in rows, Å; the stress of a system without a volume is NaN.
    """
    per_edge = graph.vec[:, :, None] * gradient[:, None, :]  # (E, 3, 3)
    symmetric = ((per_edge + per_edge.mT) / 2).flatten(1)[:, None]  # (E, 1, 9)
    per_atom = sum_at_atoms(symmetric, graph.target[:, None], len(system))
    virial = segment_sum(per_atom, system, len(cell)).unflatten(1, (3, 3))
    volume = torch.linalg.det(cell.to(virial)).abs()[:, None, None]
    # Divided by 1 rather than by NaN, whose derivative would be NaN even where nothing depends on it.
    return (virial / volume.where(volume > 0, 1)).where(volume > 0, torch.nan)
