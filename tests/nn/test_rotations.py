"""Messages whose rotations are kernels are those of matrix products."""

import pytest
import torch
from e3nn import o3

from ocp_scn.graph import build_graph
from ocp_scn.kernels import Layout, Rotations, Row
from ocp_scn.nn import MessageBlock, group_edges, group_edges_for_kernels
from ocp_scn.nn.rotations import incidence, sum_at_atoms, to_edge_frames
from ocp_scn.sphere import dense_rows, wigner_rows
from tests.kernels import needs_kernels

pytestmark = needs_kernels
ATOMS, CHANNELS, FEATURES = 7, 6, 5


def block_for(lmax, mmax, num_taps, hidden):
    """Return a block with weights large enough for every non-linearity to matter."""
    settings = {"lmax": lmax, "mmax": mmax, "num_taps": num_taps}
    block = MessageBlock(**settings, channels=CHANNELS, hidden=hidden, num_features=FEATURES)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def graph_of(num_edges):
    """Return a graph in which atom 1 receives nothing and atom 2 sends nothing."""
    source, target = torch.randint(ATOMS, (num_edges,)), torch.randint(ATOMS, (num_edges,))
    source[source == 2], target[target == 1] = 3, 0
    return build_graph(source, target, torch.randn(num_edges, 3), num_resolutions=1, max_num_neighbors=9)


def groups_of(graph, frames, block, mmax, envelope, max_edges):
    """Return groups for kernels and for matrix products."""
    rows = wigner_rows(frames, block.lmax, mmax)
    taps = block.active_taps
    settings = {"num_atoms": ATOMS, "max_edges": [max_edges]}
    rotations = [Rotations(torch.cat([r.flatten(1) for r in rows], dim=1), block.lmax, mmax)]
    dense = dense_rows(rows)
    dense = dense if taps.by_order is None else dense[:, taps.by_order]
    (by_kernel,) = group_edges_for_kernels(graph, rotations, envelope, taps=[taps], **settings)
    return by_kernel, group_edges(graph, [dense], envelope, **settings)[0]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("max_edges", [(1000, 1000), (20, 9), (1, 1)])
@pytest.mark.parametrize("hidden", [7, 600])  # the last map computed again, and kept
@pytest.mark.parametrize(("lmax", "mmax", "num_taps"), [(2, 0, 1), (3, 1, 1), (3, 1, 4), (3, 2, 5)])
def test_messages(lmax, mmax, num_taps, hidden, max_edges, smooth):
    """Sums, and derivatives by signals, features and every weight, of any groups, are the same."""
    block, graph = block_for(lmax, mmax, num_taps, hidden), graph_of(50)
    num_edges = len(graph.source)
    envelope = torch.rand(num_edges) if smooth else None
    x = torch.randn(ATOMS, (lmax + 2) ** 2, CHANNELS, requires_grad=True)
    features = torch.randn(num_edges, FEATURES, requires_grad=True)
    inputs, found = [x, features, *block.parameters()], []
    for groups in groups_of(graph, o3.rand_matrix(num_edges), block, mmax, envelope, max_edges):
        sums = torch.cat([block(x, features[group.edges], group) for group in groups])
        with torch.no_grad():
            again = torch.cat([block(x, features[group.edges], group) for group in groups])
        torch.testing.assert_close(again, sums.detach())
        found.append((sums, *torch.autograd.grad(sums.sin().sum(), inputs)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_without_edges():
    """Sums are zero, and so are derivatives."""
    none, block = torch.zeros(0, dtype=torch.long), block_for(2, 1, 4, 7)
    graph = build_graph(none, none, torch.zeros(0, 3), num_resolutions=1, max_num_neighbors=9)
    (group,), _ = groups_of(graph, torch.zeros(0, 3, 3), block, 1, None, (9, 9))
    sums = block(torch.randn(ATOMS, 9, CHANNELS, requires_grad=True), torch.zeros(0, FEATURES), group)
    assert torch.equal(sums, torch.zeros(ATOMS, 9, CHANNELS))
    sums.sum().backward()
    assert all(not parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize("atom", [-1, ATOMS])
def test_atoms_that_do_not_exist(atom):
    """They are an error, not memory of something else."""
    rotations, layout = Rotations(torch.ones(2, 1), 0, 0), Layout((1,), (Row(0, 0),))
    with pytest.raises(ValueError, match=f"{atom}; expected 0 to 6" if atom > 0 else "from -1 to 0"):
        incidence(torch.tensor([0, atom]), ATOMS, rotations, layout)


def test_derivatives_of_any_order():
    """Both directions are linear and each other's transpose, and can be differentiated again."""
    atoms = torch.randint(ATOMS, (20,))
    rows = wigner_rows(o3.rand_matrix(20), 2, 1)
    rotations, dense = Rotations(torch.cat([r.flatten(1) for r in rows], dim=1), 2, 1), dense_rows(rows)
    layout = Layout((7,), tuple(Row(0, k) for k in range(7)))
    end = incidence(atoms, ATOMS, rotations, layout)
    x, y = (
        torch.randn(ATOMS, 9, CHANNELS, requires_grad=True),
        torch.randn(20, 7, CHANNELS, requires_grad=True),
    )

    def by_kernel(x, y):
        (turned,) = to_edge_frames(x, [end])
        return turned.sin().sum() + sum_at_atoms([y.sin()], [end], ATOMS, 9).cos().sum()

    def by_products(x, y):
        sums = torch.zeros(ATOMS, 9, CHANNELS).index_add(0, atoms, dense.mT @ y.sin())
        return (dense @ x[atoms]).sin().sum() + sums.cos().sum()

    found = []
    for function in (by_kernel, by_products):
        first = torch.autograd.grad(function(x, y), (x, y), create_graph=True)
        found.append((*first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, y))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_mixed_precision():
    """Under bfloat16's autocast edges' coefficients are rounded once, and sums are float32."""
    rows = wigner_rows(o3.rand_matrix(20), 2, 1)
    rotations = Rotations(torch.cat([r.flatten(1) for r in rows], dim=1), 2, 1)
    end = incidence(
        torch.randint(ATOMS, (20,)), ATOMS, rotations, Layout((7,), tuple(Row(0, k) for k in range(7)))
    )
    x = torch.randn(ATOMS, 9, CHANNELS)
    (exact,) = to_edge_frames(x, [end])
    with torch.autocast("cpu", torch.bfloat16):
        (rounded,) = to_edge_frames(x, [end])
        sums = sum_at_atoms([rounded], [end], ATOMS, 9)
    assert torch.equal(rounded, exact.bfloat16())
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, sum_at_atoms([rounded.float()], [end], ATOMS, 9))
