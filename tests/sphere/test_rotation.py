"""Edge frames and Wigner matrices by their defining identities."""

import itertools
import math

import pytest
import torch
from e3nn import o3

from ocp_scn.sphere import (
    edge_frames,
    harmonics,
    kept_orders,
    num_coefficients,
    polar_rotation,
    rotation,
    spherical_harmonics,
    wigner_rows,
)
from tests.messages import rotate_back, rotate_rows

POLE = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()
# Directions with small Miller indices: axes, diagonals of faces and cubes, and the like.
LOW_INDEX = torch.tensor(
    [hkl for hkl in itertools.product(range(-3, 4), repeat=3) if any(hkl)], dtype=torch.float64
)
# The chart of the frames changes where the direction, turned by the rotation of the quaternion
# (1, sqrt 2, sqrt 3, sqrt 5), is below this height.
GENERIC = o3.quaternion_to_matrix(torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64).div(11).sqrt())
BORDER = -0.9


def near_poles():
    """Directions 0.1 to 1e-16 rad from +-y, on four sides."""
    angles = 10.0 ** -torch.arange(1, 17, dtype=torch.float64)
    azimuths = torch.tensor([0.0, 1.0, 2.5, 5.0], dtype=torch.float64)
    angle, azimuth, sign = torch.cartesian_prod(angles, azimuths, torch.tensor([1.0, -1.0]).double()).T
    return torch.stack([angle.sin() * azimuth.sin(), sign * angle.cos(), angle.sin() * azimuth.cos()], dim=-1)


def at_chart_border():
    """Directions on both sides of the border between the charts, and the centre of the second."""
    heights = BORDER + torch.tensor([0.0, 1e-15, -1e-15, 1e-9, -1e-9, 1e-3, -1e-3], dtype=torch.float64)
    height, azimuth = torch.cartesian_prod(heights, torch.arange(12, dtype=torch.float64)).T
    radius = (1 - height**2).sqrt()
    circle = torch.stack([radius * azimuth.cos(), height, radius * azimuth.sin()], dim=-1)
    return torch.cat([circle, -POLE[None], POLE[None]]) @ GENERIC


DIRECTIONS = {
    "random": lambda: torch.randn(500, 3, dtype=torch.float64),
    "axes": lambda: AXES,
    "low index": lambda: LOW_INDEX,
    "near the poles": near_poles,
    "at the chart border": at_chart_border,
}
everywhere = pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())


def random_rotations(count):
    return o3.rand_matrix(count, dtype=torch.float64)


def random_roll(vec):
    return 2 * math.pi * torch.rand(len(vec), dtype=vec.dtype)


def block_diagonal(rows):
    """Return all degrees' rows in one matrix (E, S, K)."""
    return torch.stack([torch.block_diag(*blocks) for blocks in zip(*rows, strict=True)])


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frames_turn_edges_to_the_pole(directions, dtype):
    """R e = +y, R R^T = 1 and det R = 1, for every direction."""
    vec = directions().to(dtype)
    frames = edge_frames(vec, random_roll(vec)).double()
    tolerance = 100 * torch.finfo(dtype).eps  # the charts' derivatives reach 4
    direction = torch.nn.functional.normalize(vec.double(), dim=-1)
    turned = (frames @ direction[:, :, None]).squeeze(-1)
    torch.testing.assert_close(turned, POLE.expand_as(turned), rtol=0, atol=tolerance)
    identity = torch.eye(3, dtype=torch.float64).expand_as(frames)
    torch.testing.assert_close(frames @ frames.mT, identity, rtol=0, atol=tolerance)
    torch.testing.assert_close(frames.det(), torch.ones(len(vec)).double(), rtol=0, atol=3 * tolerance)


@everywhere
def test_roll_is_a_polar_rotation_after_the_frame(directions):
    """R(e, a) = polar_rotation(a) R(e, 0)."""
    vec = directions()
    roll = random_roll(vec)
    torch.testing.assert_close(
        edge_frames(vec, roll),
        polar_rotation(roll) @ edge_frames(vec, torch.zeros_like(roll)),
        rtol=0,
        atol=1e-15,
    )


def test_frames_do_not_depend_on_the_length():
    """R(r e) = R(e)."""
    vec = DIRECTIONS["random"]()
    roll, length = random_roll(vec), 10 * torch.rand(len(vec), 1, dtype=torch.float64) + 0.01
    torch.testing.assert_close(edge_frames(length * vec, roll), edge_frames(vec, roll), rtol=0, atol=1e-13)


def test_frames_without_edges():
    """No edge, no frame."""
    assert edge_frames(torch.zeros(0, 3), torch.zeros(0)).shape == (0, 3, 3)


def test_frames_of_roll_zero_turn_the_shortest_way():
    """In generic coordinates, above the border, a frame turns by the angle between edge and pole, no more."""
    vec = DIRECTIONS["random"]()
    height = torch.nn.functional.normalize(vec @ GENERIC.T, dim=-1)[:, 1]
    above = height > BORDER
    turn = edge_frames(vec, torch.zeros(len(vec)).double()) @ GENERIC.T
    trace = turn.diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(trace[above], 1 + 2 * height[above], rtol=0, atol=1e-13)
    assert 0 < (~above).sum() < 0.1 * len(vec)


def test_frames_jump_away_from_low_index_directions():
    """Moved by 1e-3 from a low-index direction, a frame of roll 0 moves by 1e-2 at most."""
    change = 1e-3 * torch.nn.functional.normalize(torch.randn(20, 1, 3, dtype=torch.float64), dim=-1)
    vec = torch.nn.functional.normalize(LOW_INDEX, dim=-1)
    moved = (vec + change).flatten(0, 1)
    before = edge_frames(vec, torch.zeros(len(vec)).double())
    after = edge_frames(moved, torch.zeros(len(moved)).double()).view(20, -1, 3, 3)
    assert (after - before).abs().max() <= 1e-2


def test_polar_rotation():
    """(x, y, z) -> (x cos a - z sin a, y, x sin a + z cos a); angles add."""
    a, b = random_roll(torch.zeros(10, 3).double()), random_roll(torch.zeros(10, 3).double())
    x, y, z = v = torch.randn(3, 10, dtype=torch.float64)
    turned = (polar_rotation(a) @ v.T[:, :, None]).squeeze(-1)
    expected = torch.stack([x * a.cos() - z * a.sin(), y, x * a.sin() + z * a.cos()], dim=-1)
    torch.testing.assert_close(turned, expected)
    torch.testing.assert_close(polar_rotation(a) @ polar_rotation(b), polar_rotation(a + b))


@pytest.mark.parametrize("lmax", [0, 1, 4, 6, 7, 10])
def test_wigner_matrices_turn_the_harmonics(lmax):
    """D(R) Y(v) = Y(R v)."""
    frames, v = random_rotations(20), torch.randn(20, 3, dtype=torch.float64)
    v = torch.nn.functional.normalize(v, dim=-1)
    turned = rotate_rows(wigner_rows(frames, lmax, lmax), spherical_harmonics(v, lmax)[:, :, None])
    expected = spherical_harmonics((frames @ v[:, :, None]).squeeze(-1), lmax)
    torch.testing.assert_close(turned.squeeze(-1), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [1, 4, 6, 7, 10])
def test_wigner_matrices_are_a_representation(lmax):
    """D(R1 R2) = D(R1) D(R2), D(R) D(R)^T = 1 and D(1) = 1."""
    first, second = random_rotations(20), random_rotations(20)
    one = torch.eye(3, dtype=torch.float64)[None]
    for a, b, both, identity in zip(
        *[wigner_rows(frames, lmax, lmax) for frames in (first, second, first @ second, one)], strict=True
    ):
        torch.testing.assert_close(a @ b, both, rtol=0, atol=1e-13)
        torch.testing.assert_close(a @ a.mT, torch.eye(a.shape[-1]).double().expand_as(a), rtol=0, atol=1e-13)
        torch.testing.assert_close(identity[0], torch.eye(a.shape[-1]).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("lmax", range(11))
def test_wigner_matrices_are_those_of_e3nn(lmax):
    """D_l(R) = o3.Irrep(l).D_from_matrix(R)."""
    torch.set_default_dtype(torch.float64)  # e3nn's own constants follow the default
    frames = random_rotations(20)
    blocks = wigner_rows(frames, lmax, lmax)
    assert len(blocks) == lmax + 1
    for degree, block in enumerate(blocks):
        expected = o3.Irrep(degree, 1).D_from_matrix(frames)
        torch.testing.assert_close(block, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("lmax", "mmax"), [(3, 0), (6, 1), (5, 2), (10, 1), (2, 4)])
def test_kept_rows_are_rows_of_the_full_matrix(lmax, mmax):
    """Rows |m| <= mmax of degree l are the middle rows of D_l, in its order."""
    frames = random_rotations(20)
    rows, full = wigner_rows(frames, lmax, mmax), wigner_rows(frames, lmax, lmax)
    for degree, (kept, block) in enumerate(zip(rows, full, strict=True)):
        top = min(degree, mmax)
        assert kept.shape == (20, 2 * top + 1, 2 * degree + 1)
        torch.testing.assert_close(kept, block[:, degree - top : degree + top + 1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("lmax", [2, 6, 10])
def test_polar_rotation_mixes_orders_of_opposite_sign(lmax):
    """About the pole, (-m, m) = (n, p) -> (n cos ma - p sin ma, n sin ma + p cos ma), and m = 0 stays."""
    angle = torch.tensor([0.3, 2.0, -1.1], dtype=torch.float64)
    matrix = block_diagonal(wigner_rows(polar_rotation(angle), lmax, lmax))
    pairs = kept_orders(lmax, lmax)
    expected = torch.zeros_like(matrix)
    for row, (degree, m) in enumerate(pairs):
        expected[:, row, row] = (m * angle).cos()
        if m:
            expected[:, row, pairs.index((degree, -m))] = (m * angle).sin()
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("axis", [*AXES[:3].tolist(), [0.6, 0.0, 0.8], [1 / 3, 2 / 3, -2 / 3]])
def test_tiny_rotations_are_linear(axis):
    """D(rotation by 1e-6 about n) = 1 + 1e-6 n . X + O(1e-12), X the generators of rotations."""
    torch.set_default_dtype(torch.float64)  # e3nn's own constants follow the default
    angle, n = 1e-6, torch.tensor(axis)
    frames = o3.axis_angle_to_matrix(n, torch.tensor(angle))[None]
    for degree, block in enumerate(wigner_rows(frames, 10, 10)):
        generator = torch.einsum("k,kij->ij", n, o3.so3_generators(degree))
        linear = torch.eye(2 * degree + 1) + angle * generator
        torch.testing.assert_close(block[0], linear, rtol=0, atol=degree**2 * angle**2 + 1e-13)


def test_rotated_signal_is_the_same_function():
    """A signal f(v) = sum c Y(v), turned by R, has at R v the value that it had at v."""
    frames = random_rotations(4)
    c, v = torch.randn(4, 36, 2).double(), torch.randn(4, 7, 3).double()
    turned = rotate_rows(wigner_rows(frames, 5, 5), c)
    torch.testing.assert_close(
        spherical_harmonics(v @ frames.mT, 5) @ turned, spherical_harmonics(v, 5) @ c, rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize(("lmax", "mmax"), [(4, 0), (4, 1), (6, 2), (3, 3)])
def test_rotating_and_back(lmax, mmax):
    """Back, then forth, is the identity on kept orders; forth, then back, projects on them."""
    rows = wigner_rows(random_rotations(5), lmax, mmax)
    kept = torch.randn(5, num_coefficients(lmax, mmax), 3, dtype=torch.float64)
    torch.testing.assert_close(rotate_rows(rows, rotate_back(rows, kept)), kept, rtol=0, atol=1e-13)
    c = torch.randn(5, (lmax + 1) ** 2, 3, dtype=torch.float64)
    projected = rotate_back(rows, rotate_rows(rows, c))
    matrix = block_diagonal(rows)
    torch.testing.assert_close(projected, matrix.mT @ matrix @ c, rtol=0, atol=1e-13)
    if mmax == lmax:
        torch.testing.assert_close(projected, c, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lmax", [2, 6, 10])
def test_float32_accuracy(lmax):
    """Rows in float32 are within 3e-6 of those in float64, of the same frames."""
    frames = random_rotations(2000).float()
    for row, exact in zip(
        wigner_rows(frames, lmax, lmax), wigner_rows(frames.double(), lmax, lmax), strict=True
    ):
        assert (row.double() - exact).abs().max() <= 3e-6


@everywhere
def test_gradients_are_finite(directions):
    """Derivatives of frames and of Wigner rows exist and are bounded for every direction of length 1."""
    vec = torch.nn.functional.normalize(directions(), dim=-1)

    def largest(function):
        # One backward pass an output, edges independent of each other: the Jacobian of every edge.
        leaf = vec.clone().requires_grad_()
        output = function(edge_frames(leaf, torch.full_like(leaf[:, 0], 0.7))).flatten(1)
        gradients = [
            torch.autograd.grad(output[:, i].sum(), leaf, retain_graph=True)[0]
            for i in range(output.shape[1])
        ]
        return torch.stack(gradients).abs().max().item()

    assert largest(lambda frames: frames) <= 5
    assert largest(lambda frames: block_diagonal(wigner_rows(frames, 3, 1))) <= 5


def test_gradients_agree_with_finite_differences():
    """gradcheck through frames and Wigner rows, at random directions, axes and the singular direction."""
    centre = (-POLE @ GENERIC)[None]
    vec = torch.cat([2 * torch.randn(3, 3, dtype=torch.float64), AXES, centre]).requires_grad_()
    roll = random_roll(vec).requires_grad_()
    assert torch.autograd.gradcheck(edge_frames, (vec, roll))
    assert torch.autograd.gradcheck(lambda v, a: tuple(wigner_rows(edge_frames(v, a), 4, 1)), (vec, roll))
    assert torch.autograd.gradgradcheck(edge_frames, (vec, roll))


def test_constants_made_in_inference_mode_can_be_differentiated_through():
    """A first call under torch.inference_mode() leaves nothing behind that breaks training."""
    for tables in (rotation._fit_points, rotation._constants, harmonics._recurrence):
        tables.cache_clear()
    vec = torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode():
        wigner_rows(edge_frames(vec, torch.zeros(4).double()), 3, 1)
    leaf = vec.clone().requires_grad_()
    sum(rows.sum() for rows in wigner_rows(edge_frames(leaf, torch.zeros(4).double()), 3, 1)).backward()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_rounds_neither_frames_nor_wigner_matrices(dtype):
    """They are the same bits as without."""
    vec, roll = torch.randn(50, 3), torch.rand(50)
    frames = edge_frames(vec, roll)
    rows = wigner_rows(frames, 4, 1)
    with torch.autocast("cpu", dtype):
        assert torch.equal(edge_frames(vec, roll), frames)
        assert all(torch.equal(*pair) for pair in zip(wigner_rows(frames, 4, 1), rows, strict=True))
