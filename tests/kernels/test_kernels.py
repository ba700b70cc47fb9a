"""Kernels compute what torch computes, refuse what they cannot, and are gone where they have to be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from e3nn import o3
from torch.nn import functional

from ocp_scn import kernels
from ocp_scn.kernels import Layout, Rotations, Row
from ocp_scn.nn.taps import OneTap, Taps
from ocp_scn.sphere import dense_rows, wigner_rows
from tests.kernels import needs_kernels

ATOMS, EDGES = 7, 41
# Rounding of one number.
EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}

pytestmark = needs_kernels
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
sizes = pytest.mark.parametrize(("lmax", "mmax", "channels"), [(0, 0, 3), (2, 1, 16), (4, 2, 21), (6, 1, 83)])


def rotations(lmax, mmax, num_edges=EDGES):
    """Return rotations of edges, and the same as dense matrices (E, S, K)."""
    rows = wigner_rows(o3.rand_matrix(num_edges), lmax, mmax)
    return Rotations(torch.cat([block.flatten(1) for block in rows], dim=1), lmax, mmax), dense_rows(rows)


def in_order(num_kept):
    """Return the layout of one part in the order of kept coefficients."""
    return Layout((num_kept,), tuple(Row(0, k) for k in range(num_kept)))


def two_parts(num_kept):
    """Return a layout in two parts with a row to spare; every second coefficient lies twice, negated."""
    rows = [Row(k % 2, k // 2, num_kept // 2 + k // 2 if k % 2 else -1, -1.0) for k in range(num_kept)]
    return Layout((num_kept, num_kept + 1), tuple(rows))


@precisions
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1,), (16,), (3, 37), (5, 1, 64), (300, 130), (0, 8), (4, 0)])
@pytest.mark.parametrize("biased", [True, False])
def test_silu(shape, dtype, biased, threads):
    """Values and derivatives are those of float64 to a few roundings, also in place."""
    torch.set_num_threads(threads)
    x, gradient = (5 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
    bias = torch.randn(shape[-1:]).to(dtype) if biased else None
    y = x.double() if bias is None else x.double() + bias.double()
    y.requires_grad_()
    exact = functional.silu(y)
    (derivative,) = torch.autograd.grad(exact, y, gradient.double())
    rounding = 4 * EPSILON[dtype] if dtype == torch.float32 else EPSILON[dtype]
    close = {"rtol": rounding, "atol": 8 * 2.0**-23}
    found = kernels.silu(x, bias)
    torch.testing.assert_close(found.double(), exact.detach(), **close)
    torch.testing.assert_close(kernels.silu_derivative(gradient, x, bias).double(), derivative, **close)
    assert kernels.silu(x, bias, inplace=True) is x
    assert torch.equal(x, found)


def test_silu_of_extremes():
    """Large numbers stay finite where the function is, and infinite or undefined ones as they are."""
    x = torch.tensor([-1e30, -1e3, -100.0, -87.0, -0.0, 1e-38, 87.0, 1e30, torch.inf, torch.nan])
    found = kernels.silu(x)
    torch.testing.assert_close(found[:-1], functional.silu(x[:-1]), rtol=1e-6, atol=2e-8)
    assert found[-1].isnan()
    slopes = kernels.silu_derivative(torch.ones(8), x[:8])
    torch.testing.assert_close(slopes, torch.tensor([0, 0, 0, 0, 0.5, 0.5, 1, 1]), rtol=1e-6, atol=1e-6)


@precisions
@sizes
@pytest.mark.parametrize("layout_of", [in_order, two_parts])
@pytest.mark.parametrize("threads", [1, 2])
def test_rotations(lmax, mmax, channels, dtype, layout_of, threads):
    """Turning and its transpose are products with dense matrices, wherever the rows lie."""
    torch.set_num_threads(threads)
    of_edges, dense = rotations(lmax, mmax)
    num_kept, size = dense.shape[1:]
    layout = layout_of(num_kept)
    x, atoms = torch.randn(ATOMS, size + 2, channels), torch.randint(ATOMS - 1, (EDGES,))  # the last has none
    parts = [torch.full((EDGES, rows, channels), 99.0).to(dtype) for rows in layout.sizes]
    kernels.turn(x, atoms, of_edges, parts, layout)
    expected = dense @ x[atoms, :size]
    close = {"rtol": EPSILON[dtype], "atol": 2e-5}
    for k, row in enumerate(layout.rows):
        torch.testing.assert_close(parts[row.part][:, row.row].float(), expected[:, k], **close)
        if row.twin >= 0:
            assert torch.equal(parts[row.part][:, row.twin], row.sign * parts[row.part][:, row.row])
    untouched = [{*range(rows)} for rows in layout.sizes]
    for row in layout.rows:
        untouched[row.part] -= {row.row, row.twin}
    assert all((part[:, [*rows]] == 99).all() for part, rows in zip(parts, untouched, strict=True))

    kept = torch.stack([parts[row.part][:, row.row].float() for row in layout.rows], dim=1)
    for k, row in enumerate(layout.rows):
        kept[:, k] *= 2 if row.twin >= 0 else 1  # sign * sign of the twin
    edges = torch.argsort(atoms, stable=True)
    starts = torch.searchsorted(atoms[edges], torch.arange(ATOMS + 1))
    sums = torch.full((ATOMS, size + 2, channels), 7.0)
    wanted = torch.zeros(ATOMS, size, channels).index_add_(0, atoms, dense.mT @ kept)
    for n in range(2):
        kernels.sum_back(sums, edges, starts, of_edges, parts, layout, add=n > 0)
        torch.testing.assert_close(sums[:, :size], (n + 1) * wanted, rtol=2e-5, atol=1e-4)
    assert (sums[:, size:] == 7).all()


@precisions
@pytest.mark.parametrize("hidden", [1, 16, 45, 256])
@pytest.mark.parametrize("taps", [1, 4, 5])
def test_gates(taps, hidden, dtype):
    """Activated rolls times an activated gate are what the taps' own algebra makes of them in float64."""
    torch.set_num_threads(2)
    tables = OneTap(2, 1) if taps == 1 else Taps(2, 1, taps)
    shapes = [(EDGES, hidden)] if taps == 1 else [(EDGES, 1, hidden), (EDGES, 2, hidden)]
    first = [torch.randn(shape).to(dtype) for shape in shapes]
    gate, bias, gate_bias = (
        torch.randn(shape).to(dtype) for shape in ((EDGES, hidden), (hidden,), (hidden,))
    )
    exactly = [u.double().requires_grad_() for u in (gate, *first)]
    rolled = tables.double().roll(exactly[1:])
    opened = functional.silu(exactly[0] + gate_bias.double())[:, None]
    exact = functional.silu(rolled + bias.double()) * opened
    gradient = torch.randn(exact.shape).to(dtype)
    derivatives = torch.autograd.grad(exact, exactly, gradient.double())
    exact = exact.detach()
    of_first, of_gate = kernels.gated_derivative(gradient, first, tables.rolls, bias, gate, gate_bias)
    for found, derivative in zip((of_gate, *of_first), derivatives, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), derivative, rtol=4 * EPSILON[dtype], atol=1e-5)
    for inplace in (False, taps == 1):
        found = kernels.gated(first, tables.rolls, bias, gate, gate_bias, inplace=inplace)
        assert found.dtype == dtype
        assert (found.data_ptr() == first[0].data_ptr()) == inplace
        torch.testing.assert_close(found.double(), exact, rtol=4 * EPSILON[dtype], atol=2e-6)


@precisions
@sizes
@pytest.mark.parametrize("taps", [1, 4, 5])
def test_means(lmax, mmax, channels, dtype, taps):
    """The mean of activated rolls, and its derivative, are those of a product with a dense matrix."""
    torch.set_num_threads(2)
    tables = Taps(lmax, mmax, taps)
    num_kept = len(tables.by_order)
    values = torch.randn(EDGES, taps, num_kept * channels).to(dtype)
    bias, gradient = torch.randn(num_kept * channels), torch.randn(EDGES, num_kept, channels)
    exact = values.double().requires_grad_()
    in_order = torch.tensor(tables.by_order).argsort()
    mean = tables.double().average(functional.silu(exact + bias.double()))[:, in_order]
    (derivative,) = torch.autograd.grad(mean, exact, gradient.double())
    found = kernels.average(values, bias, tables.mean)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), mean.detach(), rtol=1e-5, atol=2e-6)
    by_kernel = kernels.average_derivative(gradient, values, bias, tables.mean)
    assert by_kernel.dtype == dtype
    close = {"rtol": max(EPSILON[dtype], 1e-5), "atol": 5e-6}
    torch.testing.assert_close(by_kernel.double(), derivative, **close)


def test_same_bits_on_any_number_of_threads():
    """No sum depends on how edges and atoms are dealt out."""
    of_edges, dense = rotations(4, 1, 500)
    atoms = torch.randint(30, (500,)).sort().values
    starts, layout = torch.searchsorted(atoms, torch.arange(31)), in_order(dense.shape[1])
    values, found = [torch.randn(500, dense.shape[1], 48)], []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(torch.empty(30, 25, 48))
        kernels.sum_back(found[-1], torch.arange(500), starts, of_edges, values, layout, add=False)
    assert torch.equal(*found)


def test_what_is_refused():
    """Wrong kinds of tensors end with an error that says what came."""
    of_edges, dense = rotations(2, 1)
    layout, atoms = in_order(dense.shape[1]), torch.zeros(EDGES, dtype=torch.long)
    beyond = Layout(layout.sizes, (Row(0, 7),))
    x, parts = torch.zeros(ATOMS, 9, 4), [torch.zeros(EDGES, dense.shape[1], 4)]
    for call, message in (
        (lambda: kernels.silu(torch.zeros(3, dtype=torch.float64)), "torch.float64"),
        (lambda: kernels.silu(torch.zeros(3, 2).mT), r"\(2, 3\).*strides \(1, 2\)"),
        (lambda: kernels.silu(torch.zeros(3, 2), torch.zeros(3)), r"\(3,\).*expected \(2,\)"),
        (lambda: kernels.turn(x.double(), atoms, of_edges, parts, layout), "float64"),
        (lambda: kernels.turn(x[:, :4], atoms, of_edges, parts, layout), r"\(7, 4, 4\).*9 or more"),
        (lambda: kernels.turn(x, atoms[1:], of_edges, parts, layout), r"\(40,\).*expected \(41,\)"),
        (lambda: kernels.turn(x, atoms, of_edges, [parts[0][:, 1:].contiguous()], layout), "expected"),
        (lambda: kernels.turn(x, atoms, of_edges, parts, beyond), r"row \[7, -1\] of part 0 is outside"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    mean, values = Taps(2, 1, 4).mean, torch.zeros(EDGES, 4, 14)
    kernels.average(values, torch.zeros(14), mean)
    for wrong, bias, message in (
        (values[:, :3].contiguous(), torch.zeros(14), r"\(41, 3, 14\).*expected \(41, 4, 14\)"),
        (values, torch.zeros(14).double(), "float64"),
        (values, torch.zeros(7), r"expected \(41, 4, 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.average(wrong, bias, mean)
    first, gate, bias = torch.zeros(EDGES, 1, 8), torch.zeros(EDGES, 8), torch.zeros(8)
    one, four = (OneTap(2, 1), [first]), (Taps(2, 1, 4), [first, torch.zeros(EDGES, 2, 8)])
    for (taps, parts), gate_bias, inplace, message in (
        (one, bias.double(), False, "float64"),
        ((one[0], [first.bfloat16()]), bias, False, "bfloat16"),
        ((four[0], [first, first]), bias, False, r"\(41, 1, 8\).*expected \(41, 2, 8\)"),
        (four, bias, True, "no place for 4 taps"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.gated(parts, taps.rolls, bias, gate, gate_bias, inplace=inplace)


@pytest.mark.parametrize("instructions", kernels.INSTRUCTION_SETS)
def test_instruction_sets(instructions):
    """The kernels compute the same with all instructions that the processor has."""
    assert kernels.instruction_sets()[0] == "any"
    if instructions not in kernels.instruction_sets():
        pytest.skip(f"this processor has no {instructions}")
    env = {**os.environ, kernels.SWITCH: instructions}
    tests = "silu or rotations or gates or means"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", tests]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_switches(tmp_path):
    """A block, the environment and another version of the source do without kernels."""
    assert kernels.usable(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.usable(torch.zeros(1, dtype=torch.float64))
    with kernels.disabled():
        assert not kernels.usable(torch.zeros(1))
    assert kernels.usable(torch.zeros(1))
    code = "import torch; from ocp_scn import kernels; print(kernels.usable(torch.zeros(1)))"
    for value, printed in (("0", "False"), ("1", "True")):
        env = {**os.environ, kernels.SWITCH: value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [printed]
    # A copy of the library and its source, which then is not what was compiled.
    for path in kernels.FOLDER.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, library; "
    code += "print(library.usable(torch.zeros(1)))"
    for printed in ("True", "False"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [printed]
        with (tmp_path / "ranges.h").open("a") as source:
            source.write("\n")


def test_unknown_instructions():
    """Something else in the environment is named, with what could be there."""
    code = "import torch; from ocp_scn import kernels; kernels.usable(torch.zeros(1))"
    env = {**os.environ, kernels.SWITCH: "fast"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"{kernels.SWITCH} is 'fast'; expected 0, 1, any, avx2, avx512" in done.stderr
