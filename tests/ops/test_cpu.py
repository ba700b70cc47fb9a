"""The operators in C++ compute what their definitions do, with any instruction set and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ocp_scn.ops import cpu, reference
from ocp_scn.ops.cpu import operators
from tests import HANG
from tests.ops import needs_compiled
from tests.ops.operators import SIZES, arguments, csr

pytestmark = needs_compiled
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7}


def results(function, values):
    found = function(*values)
    return found if isinstance(found, list) else [found]


def in_float64(values):
    """Return arguments with their numbers, and the dtypes of results, in float64."""
    if isinstance(values, list):
        return [in_float64(value) for value in values]
    if isinstance(values, torch.dtype):
        return torch.float64
    return values.double() if isinstance(values, torch.Tensor) and values.is_floating_point() else values


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_definitions(size, dtype, threads):
    """Each operator's results are the definition's of float64, in the definition's shapes and dtypes."""
    torch.set_num_threads(threads)
    for name, values in arguments(size, dtype):
        definition = getattr(reference, name)
        dtypes = [(r.shape, r.dtype) for r in results(definition, values)]
        exact = results(definition, in_float64(values))
        for found, like, wanted in zip(results(getattr(operators, name), values), dtypes, exact, strict=True):
            assert (found.shape, found.dtype) == like, name
            largest = float(wanted.abs().max()) if wanted.numel() else 0
            close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[torch.float32] * largest}
            torch.testing.assert_close(found.double(), wanted, **close, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_in_place(size):
    """What is overwritten gets what the other operators return; nothing beyond the sums is added to."""
    for name, values in arguments(size, torch.float32):
        if name == "bias_silu":
            x = values[0].clone()
            operators.bias_silu_(x, values[1])
            assert torch.equal(x, operators.bias_silu(*values))
        if name == "edge_to_node":
            *values, number = values  # noqa: PLW2901
            sums = torch.randn(size.atoms, number, size.channels)
            before = sums.clone()
            operators.edge_to_node_(sums, *values)
            expected = before + operators.edge_to_node(*values, number)
            torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(sums[:, (size.lmax + 1) ** 2 :], before[:, (size.lmax + 1) ** 2 :])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_other_layouts(size):
    """Strided tensors have the results of contiguous ones, and so has float64, by the definition."""
    for name, values in arguments(size, torch.float32):
        expected = results(getattr(operators, name), values)
        strided = [
            v.mT.contiguous().mT
            if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() > 1
            else v
            for v in values
        ]
        if name in ("gate", "gate_backward", "tap_mean", "tap_mean_backward"):
            tables = {"gate": [1], "gate_backward": [2], "tap_mean": [2, 3], "tap_mean_backward": [3, 4]}[
                name
            ]
            strided = [values[k] if k in tables else v for k, v in enumerate(strided)]
        for found, wanted in zip(results(getattr(operators, name), strided), expected, strict=True):
            torch.testing.assert_close(found, wanted, msg=lambda m, n=name: f"{n}: {m}")
        for found in results(getattr(operators, name), in_float64(values)):
            assert found.dtype == torch.float64


def test_silu_of_extremes():
    """Large numbers stay finite where the function is, and infinite or undefined ones as they are."""
    x = torch.tensor([-1e30, -1e3, -100.0, -87.0, -0.0, 1e-38, 87.0, 1e30, torch.inf, torch.nan])
    found = operators.bias_silu(x, None)
    torch.testing.assert_close(found[:-1], torch.nn.functional.silu(x[:-1]), rtol=1e-6, atol=2e-8)
    assert found[-1].isnan()
    slopes = operators.bias_silu_backward(torch.ones(8), x[:8], None)
    torch.testing.assert_close(slopes, torch.tensor([0, 0, 0, 0, 0.5, 0.5, 1, 1]), rtol=1e-6, atol=1e-6)


def test_same_bits_on_any_number_of_threads():
    """No sum depends on how edges and atoms are dealt out."""
    _, edge_to_node, *_ = arguments(SIZES[2]._replace(edges=500, atoms=30), torch.float32)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(operators.edge_to_node(*edge_to_node[1]))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_is_refused():
    """Tensors that do not fit one another end with their shapes, not with other memory."""
    size = SIZES[0]
    by_name = dict(arguments(size, torch.float32))
    for name, change in (
        ("node_to_edge", lambda v: [v[0][:, :4], *v[1:]]),
        ("node_to_edge", lambda v: [v[0], v[1][:, 1:], *v[2:]]),
        ("node_to_edge", lambda v: [*v[:3], v[3][:, 1:].contiguous(), *v[4:]]),
        ("edge_to_node", lambda v: [v[0][1:], *v[1:]]),
        ("edge_to_node", lambda v: [*v[:-1], 4]),
        ("wigner_gradient", lambda v: [v[0][1:], *v[1:]]),
        ("bias_silu", lambda v: [v[0], torch.zeros(3)]),
        ("gate", lambda v: [v[0][:-1], *v[1:]]),
        ("gate", lambda v: [[u[1:] for u in v[0]], *v[1:]]),
        ("gate_backward", lambda v: [v[0][1:], *v[1:]]),
        ("tap_mean", lambda v: [v[0][:, 1:], *v[1:]]),
        ("tap_mean_backward", lambda v: [v[0][1:], *v[1:]]),
    ):
        values = by_name[name] if name != "bias_silu" else [torch.zeros(2, 5), None]
        with pytest.raises(ValueError, match="do not fit one another"):
            getattr(operators, name)(*change(values))


@pytest.mark.parametrize("name", ["node_to_edge", "wigner_gradient"])
@pytest.mark.parametrize("atom", [-1, 5])
def test_atoms_that_do_not_exist(atom, name):
    """They are an error, not memory of something else."""
    values = dict(arguments(SIZES[0], torch.float32))[name]
    values[2][3, 1] = atom
    with pytest.raises(ValueError, match="to 5; expected 0 to 4" if atom > 0 else "from -1 to"):
        getattr(operators, name)(*values)


def test_csr():
    """Ends come atom by atom, in the order that they had."""
    order, starts = csr(torch.tensor([[2, 0], [0, 0], [2, 2]]), 4)
    assert order.tolist() == [1, 2, 3, 0, 4, 5]
    assert starts.tolist() == [0, 3, 3, 6, 6]


@pytest.mark.parametrize("instructions", cpu.INSTRUCTION_SETS)
def test_instruction_sets(instructions):
    """The operators compute the same with all instructions that the processor has."""
    assert cpu.instruction_sets()[0] == "any"
    if instructions not in cpu.instruction_sets():
        pytest.skip(f"this processor has no {instructions}")
    env = {**os.environ, cpu.SWITCH: instructions}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "definitions",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stdout


def test_switches(tmp_path):
    """The environment and another version of the source do without compiled operators."""
    assert cpu.compiled()
    code = "from ocp_scn.ops import cpu; print(cpu.compiled())"
    for value, printed in (("0", "False"), ("1", "True")):
        assert run(code, **{cpu.SWITCH: value}).stdout.split() == [printed]
    # A copy of the library and its source, which then is not what was compiled.
    for path in cpu.FOLDER.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, library; print(library.compiled())"
    )
    for printed in ("True", "False"):
        assert run(code).stdout.split() == [printed]
        with (tmp_path / "ranges.h").open("a") as source:
            source.write("\n")


def test_unknown_instructions():
    """Something else in the environment is named, with what could be there."""
    done = run("from ocp_scn.ops import cpu", **{cpu.SWITCH: "fast"})
    assert done.returncode != 0
    assert f"{cpu.SWITCH} is 'fast'; expected 0, 1, any, avx2, avx512" in done.stderr


def run(code, **env):
    command, env = [sys.executable, "-c", code], {**os.environ, **env}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG, check=False)
