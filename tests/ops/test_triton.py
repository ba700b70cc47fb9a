"""The operators' kernels for GPUs: on one where there is one, otherwise in Triton's interpreter and compiler.

The interpreter has to be asked for before Triton is imported, so a process of its own runs these tests there.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ocp_scn import ops
from ocp_scn.ops import reference
from tests.ops.operators import FAST, SIZES, Size, arguments
from tests.ops.test_library import NAMES, differentiable

pytest.importorskip("triton")

HERE = Path(__file__)
ON_CARD = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_CARD and not INTERPRETED else "cpu"
NO_CARD = "there is no NVIDIA GPU"
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Of results, relative to the largest: sums have another order, and a rounding may go the other way.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def runs_kernels(test: Any) -> Any:
    """Mark a test that runs on a card or in the interpreter."""
    return pytest.mark.cuda(pytest.mark.skipif(not (ON_CARD or INTERPRETED), reason=NO_CARD)(test))


def on_card(test: Any) -> Any:
    """Mark a test that only a card can run."""
    return pytest.mark.cuda(pytest.mark.skipif(DEVICE != "cuda", reason=NO_CARD)(test))


def to_device(x: Any) -> Any:
    """Return arguments that lie where kernels run."""
    if isinstance(x, (list, tuple)):
        return [to_device(y) for y in x]
    return x.to(DEVICE) if isinstance(x, Tensor) else x


def found_by(module: Any, name: str, values: list[Any]) -> list[Tensor]:
    """Return an operator's results; those that it writes into an argument are returned as well."""
    values = [v.clone() if k == 0 and name.endswith("_") else v for k, v in enumerate(values)]
    found = getattr(module, name)(*values)
    return found if isinstance(found, list) else [values[0] if found is None else found]


def check(name: str, values: list[Any]) -> None:
    """Compare an operator's kernel with its definition."""
    from ocp_scn.ops import triton

    values = to_device(values)
    for result, expected in zip(
        found_by(triton, name, values), found_by(reference, name, values), strict=True
    ):
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape), name
        assert result.is_contiguous() or name.endswith("_"), name
        if result.numel():
            largest = float(expected.double().abs().max())
            difference = float((result.double() - expected.double()).abs().max())
            assert difference <= TOLERANCE[result.dtype] * max(largest, 1e-3), (name, difference, largest)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def in_place(name: str, values: list[Any]) -> tuple[str, list[Any]] | None:
    """Return the operator that does the same in place, and its arguments."""
    if name == "edge_to_node":
        v, *rest, num_coefficients = values
        return "edge_to_node_", [torch.randn(len(rest[4]) - 1, num_coefficients, v.shape[1]), v, *rest]
    return ("bias_silu_", values) if name == "bias_silu" else None


# Few edges: the interpreter takes a second for a hundred of them with many coefficients.
SMALL = [size._replace(edges=min(size.edges, 3 if size.lmax >= 4 else 6)) for size in SIZES]
CASES = [(size, torch.float32) for size in SMALL]
CASES += [(size, dtype) for dtype in DTYPES[1:] for size in (SMALL[0], SMALL[1], SMALL[-1])]


@runs_kernels
@pytest.mark.parametrize(("size", "dtype"), CASES, ids=str)
def test_kernels_compute_what_the_definitions_say(size, dtype):
    for name, values in arguments(size, dtype, wide=wide(dtype)):
        check(name, values)
        other = in_place(name, values)
        if other is not None and dtype != torch.float64:
            check(*other)


@runs_kernels
@pytest.mark.parametrize("channels", [1, 3, 9])
def test_sums_of_vectors_at_atoms(channels):
    """Forces from those of edges are such sums: one coefficient, few channels."""
    size = Size(edges=17, lmax=0, mmax=0, ends=1, channels=channels)
    name, values = list(arguments(size, torch.float32))[1]
    check(name, [*values[:-1], 1])
    check("edge_to_node_", [torch.randn(size.atoms, 1, channels), *values[:-1]])


@runs_kernels
def test_more_channels_than_a_program_has():
    for name, values in list(arguments(Size(edges=3, lmax=1, channels=150), torch.float32))[:3]:
        check(name, values)


@runs_kernels
@pytest.mark.parametrize("ends", [1, 2])
def test_ends_that_are_in_order_need_no_table(ends):
    for name, given in list(arguments(Size(atoms=3, edges=6, ends=ends), torch.float32))[:3]:
        *before, atom, row, _, starts, lmax, mmax, last = given
        atom = atom.flatten().sort().values.view(6, ends)
        check(name, [*before, atom, row, None, starts, lmax, mmax, last])
        if name == "node_to_edge":
            check(name, [*before, atom, row, None, None, lmax, mmax, last])


@runs_kernels
@pytest.mark.parametrize("sizes", [[5], [1, 4], [2, 1, 1, 1], [1, 1, 1, 1, 1], [1, 2, 2]], ids=str)
def test_rows_of_a_gate_may_be_split_anyhow(sizes):
    for name, values in list(arguments(Size(edges=3, mmax=2), torch.float32))[3:5]:
        k = next(k for k, value in enumerate(values) if isinstance(value, list))
        rows = list(torch.cat(values[k], 1).split(sizes, 1))
        check(name, [*values[:k], rows, *values[k + 1 :]])
        check(name, [*values[:k], [x.contiguous() for x in rows], *values[k + 1 :]])


@runs_kernels
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_arguments_that_are_not_contiguous(number):
    def spread(x: Any) -> Any:
        """Return the same numbers with others between them."""
        if isinstance(x, list):
            return [spread(y) for y in x]
        if not isinstance(x, Tensor) or not x.dim():
            return x
        return torch.stack([x, torch.full_like(x, 99)], -1)[..., 0]

    name, values = list(arguments(Size(edges=3, lmax=2), torch.float32))[number]
    values = [spread(value) for value in values]
    check(name, values)
    other = in_place(name, values)
    if other is not None:
        from ocp_scn.ops import triton

        name, (changed, *rest) = other[0], to_device(other[1])
        expected, changed = changed.clone(), spread(changed)
        getattr(triton, name)(changed, *rest)
        getattr(reference, name)(expected, *rest)
        torch.testing.assert_close(changed, expected)


@runs_kernels
def test_a_slice_of_signals_is_read_where_it_is():
    name, values = next(iter(arguments(Size(edges=3), torch.float32)))
    whole = torch.randn(values[0].shape[0], 40, values[0].shape[2])
    check(name, [whole[:, :18], *values[1:]])


@runs_kernels
def test_numbers_of_other_edges_do_not_matter():
    """Programs read ahead: what is no number must not spread to atoms of other edges."""
    name, values = list(arguments(Size(atoms=6, edges=9, ends=1, lmax=1), torch.float32))[1]
    values[0][0], values[1][0] = torch.nan, torch.inf
    from ocp_scn.ops import triton

    sums = getattr(triton, name)(*to_device(values))
    finite = sums.isfinite().flatten(1).all(1)
    assert (~finite).nonzero().flatten().tolist() == [int(values[2][0])]


# ------------------------------------------------------------------------------------ without a card


@pytest.mark.skipif(ON_CARD or INTERPRETED, reason="kernels run on the GPU, or this is the interpreter")
def test_in_the_interpreter():
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


SIGNATURE = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.int64: "*i64"}


def compile_for_a_card(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
    """Compile a kernel for arguments instead of running it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    num_warps = options.pop("num_warps")
    named = dict(zip(kernel.arg_names, args, strict=False)) | options
    assert list(named) == kernel.arg_names
    constants = {p.name: named[p.name] for p in kernel.params if p.is_constexpr or named[p.name] is None}
    signature = {
        name: SIGNATURE[value.dtype] if isinstance(value, Tensor) else "i32"
        for name, value in named.items()
        if name not in constants
    }
    if "constexprs" in inspect.signature(ASTSource.__init__).parameters:
        signature = {name: signature.get(name, "constexpr") for name in named}
        source = ASTSource(kernel, signature, constexprs=constants)
    else:
        source = ASTSource(kernel, signature, constants=constants)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    assert "cubin" in compiled.asm


@pytest.mark.skipif(ON_CARD or INTERPRETED, reason="kernels run on the GPU, or this is the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("ends", [1, 2])
def test_kernels_compile_without_a_card(monkeypatch, ends, dtype):
    """The compiler is stricter than the interpreter about types."""
    from ocp_scn.ops import triton

    monkeypatch.setattr(triton, "_launch", compile_for_a_card)
    size = Size(lmax=2, ends=ends, taps=2)
    for name, values in arguments(size, dtype, wide=wide(dtype)):
        getattr(triton, name)(*values)
        other = in_place(name, values)
        if other is not None:
            getattr(triton, other[0])(*other[1])


# --------------------------------------------------------------------------------------- on a card


@on_card
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("size", FAST, ids=str)
def test_derivatives_on_a_card(size, number):
    """gradcheck and gradgradcheck in float64."""
    name, values = list(arguments(size, torch.float64, wide=torch.float64))[number]
    function, tensors = differentiable(name, to_device(values))
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@on_card
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_opcheck_on_a_card(number):
    for dtype in (torch.float32, torch.bfloat16):
        for size in FAST:
            name, values = list(arguments(size, dtype))[number]
            torch.library.opcheck(getattr(ops, name), tuple(to_device(values)))


@on_card
def test_the_dispatcher_finds_the_kernels():
    name, values = next(iter(arguments(SIZES[0], torch.float32)))
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ocp_scn::{name}", "CUDA")
    values = to_device(values)
    torch.testing.assert_close(getattr(ops, name)(*values), getattr(reference, name)(*values))


BITS = """
import hashlib, torch
from ocp_scn import ops
from tests.ops.operators import Size, arguments
torch.manual_seed(0)
move = lambda x: [move(y) for y in x] if isinstance(x, list) else x.cuda() if torch.is_tensor(x) else x
for name, values in arguments(Size(atoms=7, edges=500, lmax=6, channels=128, hidden=200), torch.float32):
    values = move(values)
    bits = []
    for _ in range(2):
        found = getattr(ops, name)(*values)
        found = found if isinstance(found, list) else [found]
        bits.append(hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in found)).hexdigest())
    assert bits[0] == bits[1], name
    print(name, bits[0])
"""


@on_card
def test_the_same_bits_twice_and_in_two_processes():
    def bits() -> str:
        return subprocess.run(
            [sys.executable, "-c", BITS], cwd=HERE.parents[2], check=True, capture_output=True, text=True
        ).stdout

    assert bits() == bits() != ""
