"""Edges in groups whose signals are rotated by kernels, edge by edge; see :mod:`ocp_scn.nn.edges`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ocp_scn.graph import Graph
from ocp_scn.kernels import Rotations
from ocp_scn.nn.activations import average_of_activated, silu
from ocp_scn.nn.edges import ranges, resolutions
from ocp_scn.nn.rotations import Incidence, incidence, sum_at_atoms, to_edge_frames
from ocp_scn.nn.taps import OneTap, Taps, in_order
from ocp_scn.sphere import num_coefficients


class KernelReceivers(NamedTuple):
    """Atoms next to each other at which messages are summed, as :class:`~ocp_scn.nn.edges.Receivers`.

    Attributes:
        num_atoms: A''.
        num_edges: E''.
        target: which of these atoms each edge ends at; its rotations contain the envelope.
    """

    num_atoms: int
    num_edges: int
    target: Incidence

    def inputs(self) -> tuple[()]:
        """Return nothing: the frames of these edges have no derivative."""
        return ()

    def sum(self, taps: OneTap | Taps, values: Tensor, bias: Tensor, *, inplace: bool) -> Tensor:
        """Do what :meth:`~ocp_scn.nn.edges.Receivers.sum` does."""
        if isinstance(taps, OneTap):  # there is nothing to average, and values can stay where they are
            kept = taps.average(silu(values, bias, inplace=inplace))
        else:
            kept = average_of_activated(values, bias, taps)
        return sum_at_atoms([kept], [self.target], self.num_atoms, (self.target.rotations.lmax + 1) ** 2)


class KernelEdgeGroup(NamedTuple):
    """Edges of one resolution that end at a range of atoms, as :class:`~ocp_scn.nn.edges.EdgeGroup`.

    Attributes:
        edges: the range of the graph's edges, E'.
        ends: source and target, among all atoms.
        receivers: the target's atoms in ranges of fewer edges.
    """

    edges: slice
    ends: tuple[Incidence, ...]
    receivers: list[KernelReceivers]

    def inputs(self) -> tuple[()]:
        """Return nothing: the frames of these edges have no derivative."""
        return ()

    def first_input(self, taps: OneTap | Taps, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the first map of the messages multiplies, from the signals x (A, K, C) of all atoms."""
        ends: Sequence[Incidence] = self.ends
        if x.shape[1] == 1:  # which rotations do not change
            of_ends = zip(self.ends, taps.layouts, strict=True)
            ends = [
                end._replace(rotations=end.rotations.of_scalars(), layout=layout) for end, layout in of_ends
            ]
        return taps.parts(to_edge_frames(x.float(), ends))


def group_edges_for_kernels(
    graph: Graph,
    rotations: list[Rotations],
    envelope: Tensor | None,
    *,
    num_atoms: int,
    max_edges: list[tuple[int, int]],
    taps: list[OneTap | Taps],
) -> list[list[KernelEdgeGroup]]:
    """Split the edges of each resolution into groups; see :func:`~ocp_scn.nn.edges.group_edges`.

    Args:
        graph: the edges.
        rotations: of each resolution.
        envelope: (E,) factors of the messages; 1 if None.
        num_atoms: A.
        max_edges: for each resolution, how many edges a group and its receivers may have.
        taps: of each resolution.
    """
    groups = []
    of_resolution = zip(rotations, resolutions(graph), graph.widths, taps, strict=True)
    for r, (of_edges, (target, whole_r), width, taps_r) in enumerate(of_resolution):
        layout = in_order(num_coefficients(of_edges.lmax, of_edges.mmax))
        back = of_edges.blocks if envelope is None else of_edges.blocks * envelope[whole_r, None]
        groups_r = []
        for _, edges, parts in ranges(target, num_atoms, max(width, 1), max_edges[r]):
            whole = slice(whole_r.start + edges.start, whole_r.start + edges.stop)
            here = of_edges._replace(blocks=of_edges.blocks[edges])
            ends = (graph.source[whole], target[edges])
            receivers = [
                KernelReceivers(
                    num_atoms=part.stop - part.start,
                    num_edges=received.stop - received.start,
                    target=incidence(
                        target[received] - part.start,
                        part.stop - part.start,
                        of_edges._replace(blocks=back[received]),
                        layout,
                    ),
                )
                for part, received in parts
            ]
            of_ends = zip(ends, taps_r.layouts, strict=True)
            incidences = tuple(incidence(atoms, num_atoms, here, of_end) for atoms, of_end in of_ends)
            groups_r.append(KernelEdgeGroup(whole, incidences, receivers))
        groups.append(groups_r)
    return groups
