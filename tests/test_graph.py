"""Distance ranks, the cap on neighbours, and near and far edges."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocp_scn.graph import build_graph, sort_by_target

# Lengths from a small set, so that many are equal.
edge_lists = st.lists(st.tuples(st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.integers(0, 4)), max_size=40)
few_examples = settings(max_examples=50, deadline=None, derandomize=True)


def ranks_one_by_one(lengths, targets):
    """Count, for each edge, those of its target that are shorter, or as long and earlier."""
    edges = list(enumerate(zip(lengths, targets, strict=True)))
    return [sum(t == target and (r, j) < (length, i) for j, (r, t) in edges) for i, (length, target) in edges]


def ranks_of(distance, target):
    """Return the rank of each edge in the order given."""
    order, rank = sort_by_target(distance, target)
    assert torch.equal(target[order], target.sort().values)
    return torch.empty_like(rank).index_copy(0, order, rank)


def random_edges(num_edges, num_atoms=4):
    """Return sources, targets in any order, and vectors of different lengths."""
    source, target = torch.randint(num_atoms, (2, num_edges))
    return source, target, torch.randn(num_edges, 3, dtype=torch.float64)


@few_examples
@given(edge_lists)
def test_ranks(edges):
    """The rank of an edge is the number of edges of its target before it, by length, then by order."""
    lengths, targets = [r for r, _ in edges], [t for _, t in edges]
    ranks = ranks_of(torch.tensor(lengths), torch.tensor(targets, dtype=torch.long))
    assert ranks.tolist() == ranks_one_by_one(lengths, targets)


def test_equal_lengths_keep_their_order():
    """With all lengths equal, ranks count the edges of a target in their order."""
    target = torch.tensor([2, 0, 2, 2, 0, 1])
    assert ranks_of(torch.ones(6), target).tolist() == [0, 0, 1, 2, 1, 0]


def test_ranks_of_many_equal_lengths():
    """Ties stay in order for more edges than a sort keeps in order by accident."""
    assert torch.equal(ranks_of(torch.ones(5000), torch.zeros(5000, dtype=torch.long)), torch.arange(5000))


@few_examples
@given(edge_lists, st.integers(1, 20), st.sampled_from([1, 2]))
def test_graph(edges, max_num_neighbors, num_resolutions):
    """Kept are ranks below the cap; near, with two resolutions, are ranks 0..11; near come before far;
    within a resolution edges are sorted by target, then by rank."""
    target = torch.tensor([t for _, t in edges], dtype=torch.long)
    source = torch.arange(len(edges))  # names the edge
    vec = torch.tensor([[0.0, r, 0.0] for r, _ in edges]).view(-1, 3)
    graph = build_graph(
        source, target, vec, num_resolutions=num_resolutions, max_num_neighbors=max_num_neighbors
    )
    ranks = ranks_one_by_one([r for r, _ in edges], target.tolist())
    border = 12 if num_resolutions == 2 else max_num_neighbors
    near = [i for i, rank in enumerate(ranks) if rank < min(border, max_num_neighbors)]
    far = [i for i, rank in enumerate(ranks) if border <= rank < max_num_neighbors]
    near, far = (sorted(part, key=lambda i: (target[i].item(), ranks[i])) for part in (near, far))
    assert graph.source.tolist() == near + far
    assert graph.sizes == ((len(near), len(far)) if num_resolutions == 2 else (len(near),))
    assert torch.equal(graph.target, target[graph.source])
    assert torch.equal(graph.vec, vec[graph.source])


@pytest.mark.parametrize("cap", [0, 1, 5, 12, 13, 20])
def test_cap_keeps_the_nearest(cap):
    """No target keeps more than the cap, and every edge it lost is longer than those it kept."""
    source, target, vec = random_edges(120)
    graph = build_graph(source, target, vec, num_resolutions=2, max_num_neighbors=cap)
    for atom in range(4):
        lengths = vec[target == atom].norm(dim=-1).sort().values
        kept = graph.vec[graph.target == atom].norm(dim=-1).sort().values
        assert torch.equal(kept, lengths[:cap])


def test_near_and_far():
    """Of 20 neighbours the 12 nearest are near and the 8 others far; with one resolution all are near."""
    source, target, vec = torch.arange(20), torch.zeros(20, dtype=torch.long), torch.randn(20, 3)
    graph = build_graph(source, target, vec, num_resolutions=2, max_num_neighbors=20)
    assert graph.sizes == (12, 8)
    near, far = graph.vec.norm(dim=-1).split(graph.sizes)
    assert near.max() < far.min()
    one = build_graph(source, target, vec, num_resolutions=1, max_num_neighbors=20)
    assert one.sizes == (20,)
    assert torch.equal(one.vec, vec[vec.norm(dim=-1).argsort()])


def test_near_edges_of_all_targets_come_first():
    """Of four targets with some 30 edges each, the 12 nearest come target by target, then the next 8 do."""
    graph = build_graph(*random_edges(120), num_resolutions=2, max_num_neighbors=20)
    assert graph.sizes == (4 * 12, 4 * 8)
    for part, count in zip(graph.target.split(graph.sizes), (12, 8), strict=True):
        assert torch.equal(part, torch.arange(4).repeat_interleave(count))


@pytest.mark.parametrize(("num_resolutions", "sizes"), [(1, (0,)), (2, (0, 0))])
def test_no_edges(num_resolutions, sizes):
    """A graph without edges has empty resolutions."""
    none = torch.zeros(0, dtype=torch.long)
    assert ranks_of(torch.zeros(0), none).shape == (0,)
    graph = build_graph(none, none, torch.zeros(0, 3), num_resolutions=num_resolutions, max_num_neighbors=20)
    assert graph.sizes == sizes
    assert graph.source.shape == graph.target.shape == (0,)
    assert graph.vec.shape == (0, 3)


def test_gradients_flow_through_the_vectors():
    """The vectors of a graph are the given ones, reordered: their gradient is 1 where kept, else 0."""
    source, target, vec = random_edges(60)
    vec.requires_grad_()
    graph = build_graph(source, target, vec, num_resolutions=2, max_num_neighbors=13)
    graph.vec.sum().backward()
    ranks = ranks_of(vec.detach().norm(dim=-1), target)
    assert torch.equal(vec.grad, (ranks < 13).to(vec)[:, None].expand(-1, 3))
