"""Messages of edges: taps, rolls and truncation."""

import math

import pytest
import torch
from e3nn import o3
from torch.nn.functional import silu

from ocp_scn.nn import Edges, MessageBlock, split_edges, sum_messages
from ocp_scn.nn import message_vjp as messages
from ocp_scn.nn.taps import Taps
from ocp_scn.ops.chunks import CPU, as_if
from ocp_scn.ops.reference import packed_size
from ocp_scn.sphere import num_coefficients, packed_wigner, polar_rotation, wigner_rows
from tests.messages import edge_messages, rotate_back, rotate_rows

CHANNELS, HIDDEN, FEATURES, ATOMS, EDGES = 3, 7, 5, 4, 6
TAPS = [1, 4, 5, 8]


@pytest.fixture(autouse=True)
def double():
    """Compute in float64."""
    torch.set_default_dtype(torch.float64)


def block_for(lmax, mmax, num_taps):
    """Return a block with weights large enough for every non-linearity to matter."""
    block = MessageBlock(
        lmax=lmax, mmax=mmax, num_taps=num_taps, channels=CHANNELS, hidden=HIDDEN, num_features=FEATURES
    )
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return block


def edges(lmax, num_edges=EDGES):
    """Return signals, edge features, sources, targets and frames."""
    return (
        torch.randn(ATOMS, (lmax + 1) ** 2, CHANNELS),
        torch.randn(num_edges, FEATURES),
        torch.randint(ATOMS, (num_edges,)),
        torch.randint(ATOMS, (num_edges,)),
        o3.rand_matrix(num_edges),
    )


def message(block, inputs, lmax, mmax, *, roll=0.0):
    """Return the block's messages with all edge frames rolled by ``roll``."""
    x, features, source, target, frames = inputs
    frames = polar_rotation(torch.full((len(frames),), roll)) @ frames
    return edge_messages(block, x, features, source, target, wigner_rows(frames, lmax, mmax))


def one_by_one(block, inputs, lmax, mmax, num_taps):
    """Return the messages by a loop over taps, each with Wigner rows of its own."""
    x, features, source, target, frames = inputs
    total = 0
    for tap in range(num_taps):
        roll = torch.full((len(frames),), 2 * math.pi * tap / num_taps)
        rows = wigner_rows(polar_rotation(roll) @ frames, lmax, mmax)
        u = torch.cat([rotate_rows(rows, x[source]), rotate_rows(rows, x[target])], dim=1).flatten(1)
        h = silu(u @ block.fc1.weight.T + block.fc1.bias)
        h = h * silu(features @ block.fc_features.weight.T + block.fc_features.bias)
        h = silu(h @ block.fc2.weight.T + block.fc2.bias)
        v = silu(h @ block.fc3.weight.T + block.fc3.bias)
        total = total + rotate_back(rows, v.view(len(frames), -1, CHANNELS))
    return total / num_taps


@pytest.mark.parametrize("num_taps", TAPS)
@pytest.mark.parametrize(("lmax", "mmax"), [(1, 0), (3, 0), (1, 1), (4, 1), (2, 2), (4, 2)])
def test_taps_are_those_of_a_loop(lmax, mmax, num_taps):
    """The shared first map and the single matrix back give what T separate passes and their mean give."""
    block, inputs = block_for(lmax, mmax, num_taps), edges(lmax)
    values = message(block, inputs, lmax, mmax)
    assert values.shape == (EDGES, (lmax + 1) ** 2, CHANNELS)
    torch.testing.assert_close(
        values, one_by_one(block, inputs, lmax, mmax, num_taps), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("num_taps", TAPS)
@pytest.mark.parametrize("mmax", [1, 2])
def test_taps_make_messages_invariant_to_their_rolls(mmax, num_taps):
    """Rolling the frames by 2 pi k / T changes nothing; by another angle it does."""
    block, inputs = block_for(3, mmax, num_taps), edges(3)
    values = message(block, inputs, 3, mmax)
    for k in (1, 3):
        rolled = message(block, inputs, 3, mmax, roll=2 * math.pi * k / num_taps)
        torch.testing.assert_close(rolled, values, rtol=1e-11, atol=1e-12)
    other = message(block, inputs, 3, mmax, roll=math.pi / num_taps)
    assert (other - values).abs().max() > 1e-6 * values.abs().max()


@pytest.mark.parametrize("num_taps", [1, 4])
def test_order_zero_is_invariant_to_every_roll(num_taps):
    """With mmax = 0 a message does not depend on the roll, nor on the number of taps."""
    block, inputs = block_for(4, 0, num_taps), edges(4)
    values = message(block, inputs, 4, 0)
    for roll in (0.1, 1.0, 4.0):
        torch.testing.assert_close(message(block, inputs, 4, 0, roll=roll), values, rtol=1e-11, atol=1e-12)
    single = block_for(4, 0, 1)
    single.load_state_dict(block.state_dict())
    torch.testing.assert_close(message(single, inputs, 4, 0), values, rtol=1e-11, atol=1e-12)


def test_messages_turn_with_the_signals():
    """Turning the signals and the edges by Q turns the messages by D(Q), with the frames R Q^T."""
    lmax, mmax = 3, 1
    block, (x, features, source, target, frames) = block_for(lmax, mmax, 4), edges(lmax)
    turn = o3.rand_matrix()
    atoms, messages = (
        [d.expand(count, -1, -1) for d in wigner_rows(turn[None], lmax, lmax)] for count in (ATOMS, EDGES)
    )
    before = message(block, (x, features, source, target, frames), lmax, mmax)
    after = message(block, (rotate_rows(atoms, x), features, source, target, frames @ turn.T), lmax, mmax)
    torch.testing.assert_close(after, rotate_rows(messages, before), rtol=1e-10, atol=1e-11)


def test_source_and_target_differ():
    """Exchanging the ends of an edge changes its message."""
    block, (x, features, _, _, frames) = block_for(2, 1, 4), edges(2)
    source, target = torch.arange(EDGES) % ATOMS, (torch.arange(EDGES) + 1) % ATOMS
    forth = message(block, (x, features, source, target, frames), 2, 1)
    back = message(block, (x, features, target, source, frames), 2, 1)
    assert (forth - back).flatten(1).abs().amax(1).min() > 1e-3


def test_messages_are_of_kept_orders():
    """In the edge frame a message has no coefficient with |m| > mmax."""
    inputs = edges(4)
    values = message(block_for(4, 1, 4), inputs, 4, 1)
    rows = wigner_rows(inputs[-1], 4, 1)
    torch.testing.assert_close(rotate_back(rows, rotate_rows(rows, values)), values, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_taps", [1, 4])
def test_no_edges(num_taps):
    """Without edges the sums are zero, and every weight still has a derivative, which is zero."""
    none, block = torch.zeros(0, dtype=torch.long), block_for(3, 1, num_taps)
    wigner = torch.zeros(0, packed_size(3, 1))
    none = Edges(wigner, wigner, split_edges(none, none, ATOMS, (100, 100), recorded=True))
    sums = block(torch.randn(ATOMS, 16, CHANNELS), torch.zeros(0, FEATURES), none)
    assert torch.equal(sums, torch.zeros(ATOMS, 16, CHANNELS))
    sums.sum().backward()
    assert all(not parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize(("mmax", "num_taps"), [(0, 1), (1, 1), (1, 4), (2, 8)])
def test_sizes_and_gradients_of_parameters(mmax, num_taps):
    """Maps are 2 S C' -> H -> H -> S C' and F -> H, all with bias, and every weight has a gradient."""
    block, inputs = block_for(3, mmax, num_taps), edges(3)
    size = num_coefficients(3, mmax) * CHANNELS
    assert {name: tuple(p.shape) for name, p in block.named_parameters()} == {
        "fc_features.weight": (HIDDEN, FEATURES),
        "fc_features.bias": (HIDDEN,),
        "fc1.weight": (HIDDEN, 2 * size),
        "fc1.bias": (HIDDEN,),
        "fc2.weight": (HIDDEN, HIDDEN),
        "fc2.bias": (HIDDEN,),
        "fc3.weight": (size, HIDDEN),
        "fc3.bias": (size,),
    }
    message(block, inputs, 3, mmax).square().sum().backward()
    assert all((parameter.grad != 0).all() for parameter in block.parameters())


@pytest.mark.parametrize("num_taps", [1, 4])
def test_derivatives_with_respect_to_signals_and_frames(num_taps):
    """gradcheck through signals, edge features and frames."""
    block, (x, features, source, target, frames) = block_for(2, 1, num_taps), edges(2, num_edges=3)
    assert torch.autograd.gradcheck(
        lambda x, e, f: edge_messages(block, x, e, source, target, wigner_rows(f, 2, 1)),
        (x.requires_grad_(), features.requires_grad_(), frames.requires_grad_()),
    )


def sums_of(block, inputs, lmax, mmax, max_edges, envelope):
    """Return the sums of messages at their receivers, computed in chunks."""
    x, features, source, target, frames = inputs
    target = target.sort().values
    wigner = packed_wigner(frames, lmax, mmax)
    chunks = split_edges(source, target, len(x), max_edges, recorded=torch.is_grad_enabled())
    return block(x, features, Edges(wigner, wigner * envelope[:, None], chunks))


@pytest.mark.parametrize("repeated", [0, 1000], ids=["last values kept", "computed again"])
@pytest.mark.parametrize(("mmax", "num_taps"), [(0, 1), (1, 1), (1, 4), (2, 5)])
def test_chunks(mmax, num_taps, repeated, monkeypatch):
    """Chunks of any size give what all edges at once give: sums, and derivatives by inputs and weights."""
    monkeypatch.setattr(messages, "MAX_REPEATED", repeated)
    lmax, found = 3, []
    block, inputs = block_for(lmax, mmax, num_taps), edges(lmax, num_edges=11)
    envelope = torch.rand(11, requires_grad=True)
    x, features, *_, frames = (t.requires_grad_(t.is_floating_point()) for t in inputs)
    wanted = [x, features, frames, envelope, *block.parameters()]
    for max_edges in ((100, 100), (100, 3), (4, 4), (5, 1)):
        sums = sums_of(block, inputs, lmax, mmax, max_edges, envelope)
        with torch.no_grad():
            torch.testing.assert_close(sums_of(block, inputs, lmax, mmax, max_edges, envelope), sums.detach())
        found.append((sums, *torch.autograd.grad(sums.sin().sum(), wanted)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_two_resolutions():
    """Their messages in one step are the sum of those of each, and so are the derivatives."""
    near, far = block_for(3, 1, 4), block_for(2, 1, 1)
    inputs, wanted, found = edges(3), [*near.parameters(), *far.parameters()], []
    x, features, source, target, frames = inputs
    target, x = target.sort().values, x.requires_grad_()
    of_each = []
    for lmax in (3, 2):
        wigner = packed_wigner(frames, lmax, 1)
        of_each.append(Edges(wigner, wigner, split_edges(source, target, ATOMS, (4, 2), recorded=True)))
    together = sum_messages([near, far], x, [features, features], of_each)
    one, other = near(x, features, of_each[0]), far(x, features, of_each[1])
    for sums in (together, one + torch.nn.functional.pad(other, (0, 0, 0, 16 - 9))):
        found.append((sums, *torch.autograd.grad(sums.sin().sum(), [x, *wanted])))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_how_many_edges_at_once():
    """The last map's chunks hold the values of all taps that are computed, in evaluation as in training."""
    block = MessageBlock(
        lmax=2, mmax=1, num_taps=2, channels=CHANNELS, hidden=HIDDEN, num_features=FEATURES, eval_num_taps=6
    )
    size = num_coefficients(2, 1) * CHANNELS
    sizes = CPU._replace(message=7 * size + 1, last_map=24 * size + 1)
    assert block.train().max_edges(sizes) == (7, 12)
    assert block.eval().max_edges(sizes) == (7, 4)


@pytest.mark.parametrize("scalars", [False, True])
@pytest.mark.parametrize(("mmax", "num_taps"), [(1, 1), (1, 2), (2, 3)])
def test_derivatives_of_second_order(mmax, num_taps, scalars):
    """gradgradcheck through signals, edge features, frames and envelope, in chunks."""
    block, (x, features, source, target, frames) = block_for(2, mmax, num_taps), edges(2, num_edges=3)
    wigner, target = packed_wigner(frames, 2, mmax), target.sort().values
    x, envelope = (x[:, :1] if scalars else x), torch.rand(3)
    chunks = split_edges(source, target, ATOMS, (2, 1), recorded=True)

    def function(x, e, wigner, envelope):
        return block(x, e, Edges(wigner, wigner * envelope[:, None], chunks))

    inputs = [t.detach().requires_grad_() for t in (x, features, wigner, envelope)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(("mmax", "num_taps"), [(0, 1), (1, 1), (1, 2), (1, 4), (2, 3)])
def test_scalars(mmax, num_taps):
    """Signals with the coefficient (0, 0) only have the messages of the same ones with zeros beyond."""
    block, inputs = block_for(3, mmax, num_taps), edges(3)
    inputs[0][:, 1:] = 0
    expected = sums_of(block, inputs, 3, mmax, (4, 2), torch.ones(EDGES))
    x, features, source, target, frames = inputs
    wigner = packed_wigner(frames, 3, mmax)
    chunks = split_edges(source, target.sort().values, ATOMS, (4, 2), recorded=True)
    found = block(x[:, :1], features, Edges(wigner, wigner, chunks))
    torch.testing.assert_close(found, expected)


def test_what_is_kept():
    """The backward pass keeps the inputs, what is mixed for the taps, and the second map's results."""
    block, inputs, kept = block_for(3, 1, 4), edges(3), []
    inputs[0].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sums_of(block, inputs, 3, 1, (100, 100), torch.ones(EDGES))
    shapes = [tuple(t.shape) for t in kept if t.data_ptr() not in {p.data_ptr() for p in block.parameters()}]
    first = [(EDGES, 1, HIDDEN), (EDGES, 2, HIDDEN)]
    assert [shape for shape in shapes if shape[-1] == HIDDEN] == [*first, (EDGES, 4, HIDDEN)]


@pytest.mark.parametrize(("mmax", "num_taps"), [(0, 4), (1, 4), (2, 8), (2, 1)])
def test_weights_gathered_at_once_or_one_by_one(mmax, num_taps):
    """The first map's matrices are the same, and there is one for each part that it multiplies."""
    taps = Taps(3, mmax, num_taps)
    weight = torch.randn(2 * taps.num_kept * CHANNELS, HIDDEN).mT
    together = list(taps.maps(weight))
    with as_if(CPU._replace(message=1)):
        one_by_one = list(taps.maps(weight))
    assert len(together) == len(one_by_one) == len(taps.sizes)
    assert all(map(torch.equal, together, one_by_one))
