"""Edges in chunks: which they are, and at which atoms they end."""

import pytest
import torch

from ocp_scn.nn import split_edges

ATOMS = 7


def ragged():
    """Return sources, and targets with 0 to 15 edges an atom."""
    target = torch.tensor([0] * 15 + [2] * 3 + [3] + [6] * 14)
    return torch.randint(ATOMS, (len(target),)), target


@pytest.mark.parametrize(
    ("max_edges", "sizes"),
    [
        ((100, 100), [[33]]),
        ((33, 17), [[16, 17]]),
        ((20, 20), [[16], [17]]),
        ((11, 4), [[3, 4, 4]] * 3),
        ((0, 0), [[1]] * 33),
    ],
)
def test_sizes(max_edges, sizes):
    """Chunks are as few and as even as they can be, and so are their ranges for the last map."""
    chunks = split_edges(*ragged(), ATOMS, max_edges, recorded=True)
    assert [[last.stop - last.start for last, _ in chunk.receivers] for chunk in chunks] == sizes
    assert [chunk.edges.stop - chunk.edges.start for chunk in chunks] == [sum(s) for s in sizes]
    borders = [chunk.edges.start for chunk in chunks] + [33]
    assert borders == [0, *(chunk.edges.stop for chunk in chunks)]


@pytest.mark.parametrize("max_edges", [(100, 100), (8, 8), (9, 2)])
def test_ends(max_edges):
    """The ends of edges atom by atom, of both ends and of receivers, are those of the edges."""
    source, target = ragged()
    for chunk in split_edges(source, target, ATOMS, max_edges, recorded=True):
        both = torch.stack([source, target], 1)[chunk.edges]
        assert torch.equal(chunk.ends.atom, both)
        check_segments(both.flatten(), chunk.ends.order, chunk.ends.starts)
        for last, receivers in chunk.receivers:
            assert torch.equal(receivers.atom[:, 0], target[chunk.edges][last])
            assert receivers.order is None
            check_segments(receivers.atom[:, 0], torch.arange(len(receivers.atom)), receivers.starts)


def check_segments(atom, order, starts):
    """Assert that the ends of each atom are in its segment, in the order that they had."""
    for k in range(ATOMS):
        here = order[starts[k] : starts[k + 1]]
        assert torch.equal(here, (atom == k).nonzero()[:, 0])


def test_nothing_for_derivatives_that_nobody_takes():
    """At inference nothing is sorted."""
    (chunk,) = split_edges(*ragged(), ATOMS, (100, 100), recorded=False)
    assert chunk.ends.order is None
    assert chunk.ends.starts is None


def test_no_edges():
    """There is one empty chunk."""
    none = torch.zeros(0, dtype=torch.long)
    (chunk,) = split_edges(none, none, ATOMS, (10, 10), recorded=True)
    ((last, receivers),) = chunk.receivers
    assert (chunk.edges, last) == (slice(0, 0), slice(0, 0))
    assert receivers.starts.tolist() == [0] * (ATOMS + 1)
