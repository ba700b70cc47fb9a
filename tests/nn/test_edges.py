"""Groups of edges: turning signals into edge frames and summing messages at their targets."""

import pytest
import torch

from ocp_scn.graph import build_graph
from ocp_scn.nn.edges import group_edges, sum_at_targets, to_edge_frames

ATOMS, KEPT, SIZE, CHANNELS = 7, 4, 9, 3


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def full(num_edges=35):
    """Return targets of which each atom has the same number."""
    return torch.arange(num_edges) % ATOMS


def ragged():
    """Return targets with 0 to 15 edges an atom."""
    return torch.tensor([0] * 15 + [2] * 3 + [3] + [6] * 14)


@pytest.mark.parametrize("max_edges", [(1, 1), (12, 1000), (28, 10), (1000, 1000), (1000, 1)])
@pytest.mark.parametrize("targets", [full, ragged])
@pytest.mark.parametrize("num_resolutions", [1, 2])
def test_sums_and_frames(targets, max_edges, num_resolutions):
    """Groups of any size give what one edge after the other gives."""
    target = targets()[torch.randperm(len(targets()))]
    source = torch.randint(ATOMS, (len(target),))
    graph = build_graph(
        source, target, torch.randn(len(target), 3), num_resolutions=num_resolutions, max_num_neighbors=14
    )
    x, envelope = torch.randn(ATOMS, SIZE, CHANNELS), torch.rand(len(graph.source))
    rows = [torch.randn(size, KEPT, SIZE) for size in graph.sizes]
    groups = group_edges(graph, rows, envelope, num_atoms=ATOMS, max_edges=[max_edges] * num_resolutions)
    first = 0
    for r, of_resolution in enumerate(groups):
        size = graph.sizes[r]
        targets = [group.target.atoms for group in of_resolution]
        assert [atoms.start for atoms in targets[1:]] == [atoms.stop for atoms in targets[:-1]]
        source, target = (t[first : first + size] for t in (graph.source, graph.target))
        for end, atoms in (("source", source), ("target", target)):
            ends = [getattr(group, end) for group in of_resolution]
            turned = torch.cat([to_edge_frames(x, end.rows, end) for end in ends])
            torch.testing.assert_close(turned, rows[r] @ x[atoms])
        values = torch.randn(size, KEPT, CHANNELS)
        receivers = [at for group in of_resolution for at in group.receivers]
        parts = values.split([at.num_edges for at in receivers])
        sums = [sum_at_targets(part, at.rows, at) for part, at in zip(parts, receivers, strict=True)]
        messages = envelope[first : first + size, None, None] * (rows[r].mT @ values)
        expected = torch.zeros(ATOMS, SIZE, CHANNELS).index_add_(0, target, messages)
        torch.testing.assert_close(torch.cat(sums), expected)
        first += size


def test_size_of_groups():
    """A group has at most the wanted number of places, or one atom."""
    target = full()
    graph = build_graph(target, target, torch.randn(35, 3), num_resolutions=1, max_num_neighbors=-1)
    rows = [torch.randn(35, KEPT, SIZE)]
    for max_edges, sizes in (
        ((35, 35), [[35]]),
        ((35, 18), [[10, 10, 15]]),
        ((14, 9), [[5], [5, 5], [5, 5], [5, 5]]),
        ((3, 3), [[5]] * 7),
    ):
        (groups,) = group_edges(graph, rows, None, num_atoms=ATOMS, max_edges=[max_edges])
        assert [[at.num_edges for at in group.receivers] for group in groups] == sizes
        assert [group.edges.stop - group.edges.start for group in groups] == [sum(size) for size in sizes]
        assert all(group.target.places is None for group in groups)
        back = [torch.cat([at.rows for at in group.receivers]) for group in groups]
        assert all(torch.equal(group.target.rows, rows) for group, rows in zip(groups, back, strict=True))
