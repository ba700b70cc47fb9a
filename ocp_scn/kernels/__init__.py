"""What torch is slow at on processors, compiled from C++ here when the package is installed.

The kernels take float32, and bfloat16 where the network's mixed precision has it, in the processor's memory,
and know no derivatives. Whoever calls them has to manage without: there are none where no compiler was, and
``OCP_SCN_KERNELS=0`` in the environment, or :func:`disabled` in a program, switches them off. They are
compiled for several instruction sets, of which the best is taken that the processor has;
``OCP_SCN_KERNELS=avx512``, ``avx2`` or ``any`` takes another one.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

SWITCH = "OCP_SCN_KERNELS"
INSTRUCTION_SETS = ("any", "avx2", "avx512")
FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "kernels.cpp", FOLDER / "ranges.h")
_PRECISIONS = (torch.float32, torch.bfloat16)
_disabled = 0


class Row(NamedTuple):
    """Where one coefficient that an edge frame keeps lies among the rows (C numbers) of an edge.

    Attributes:
        part: number of the tensor.
        row: number of the row there.
        twin: number of another row there with the same times ``sign``; -1 if there is none.
        sign: 1 or -1.
    """

    part: int
    row: int
    twin: int = -1
    sign: float = 1.0


class Layout(NamedTuple):
    """How tensors of edges hold the coefficients that edge frames keep.

    Attributes:
        sizes: rows that each tensor, a part, has of an edge.
        rows: where each kept coefficient lies, in the order of :func:`~ocp_scn.sphere.kept_orders`.
    """

    sizes: tuple[int, ...]
    rows: tuple[Row, ...]


class Rotations(NamedTuple):
    """The kept rows of edges' Wigner matrices, without the zeros around their blocks.

    Attributes:
        blocks: (E, B) numbers, degree by degree (2 min(l, mmax) + 1) x (2 l + 1); float32, contiguous.
        lmax: largest degree.
        mmax: largest kept \\|order\\|.
    """

    blocks: Tensor
    lmax: int
    mmax: int

    def of_scalars(self) -> Rotations:
        """Return the same for degree 0, which they leave as it is."""
        return Rotations(self.blocks[:, :1].contiguous(), 0, self.mmax)


def usable(*tensors: Tensor) -> bool:
    """Whether there are kernels for tensors of this kind, in this process and now."""
    if _disabled or _library() is None:
        return False
    return all(t.device.type == "cpu" and t.dtype in _PRECISIONS for t in tensors)


def instruction_sets() -> tuple[str, ...]:
    """Return those of :data:`INSTRUCTION_SETS` that this processor has, the best one last."""
    library = _library()
    return () if library is None else _instruction_sets(library)


def _instruction_sets(library: ctypes.CDLL) -> tuple[str, ...]:
    return INSTRUCTION_SETS[: library.ocp_scn_best() + 1]


@contextmanager
def disabled() -> Iterator[None]:
    """Have :func:`usable` be False within the block, in all threads."""
    global _disabled  # noqa: PLW0603  # a switch of the process, as torch's own
    _disabled += 1
    try:
        yield
    finally:
        _disabled -= 1


def silu(x: Tensor, bias: Tensor | None = None, *, inplace: bool = False) -> Tensor:
    """Return SiLU(x + bias), in the place of x if wanted.

    Args:
        x: (..., N) contiguous.
        bias: (N,) of the same dtype; None for zero.
        inplace: whether to overwrite x.
    """
    result = x if inplace else torch.empty_like(x)
    _call("silu", *_activation(x, bias), result.data_ptr(), *_size(x))
    return result


def silu_derivative(gradient: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return gradient * SiLU'(x + bias); the gradient is like x, the others as in :func:`silu`."""
    _check(gradient, x.shape, x.dtype)
    result = torch.empty_like(x)
    _call("silu_derivative", *_activation(x, bias), gradient.data_ptr(), result.data_ptr(), *_size(x))
    return result


class Rolls(NamedTuple):
    """How T rolls of the frames make something of W rows that each edge has.

    Attributes:
        waves: (T, W) float32, the factors of the rows.
        layout: where the rows lie.
    """

    waves: Tensor
    layout: Layout


def gated(
    first: Sequence[Tensor],
    rolls: Rolls,
    bias: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    *,
    inplace: bool = False,
) -> Tensor:
    """Return SiLU(waves @ u + bias) * SiLU(gate + gate_bias), (E, T, C), of each edge's rows u (W, C).

    Args:
        first: tensors (E, rows, C), or (E, C), that hold the rows, contiguous, float32 or bfloat16.
        rolls: what T, W and the waves are, and where each row lies in ``first``.
        bias: (C,) of the same dtype as ``first``.
        gate: (E, C), of this dtype as well.
        gate_bias: (C,), too.
        inplace: whether to overwrite ``first``, which is possible where it is one tensor, of T rows.
    """
    (num_edges, channels), (taps, number) = gate.shape, rolls.waves.shape
    is_bfloat16, *arguments = _gated(first, rolls, bias, gate, gate_bias)
    if inplace and (number, rolls.layout.sizes) != (1, (taps,)):
        raise ValueError(f"{number} rows in {rolls.layout.sizes} have no place for {taps} taps")
    result = (
        first[0].view(num_edges, taps, channels) if inplace else gate.new_empty(num_edges, taps, channels)
    )
    last = result.data_ptr(), channels, num_edges, torch.get_num_threads()
    _call("gated", is_bfloat16, *arguments, *last)
    return result


def gated_derivative(
    gradient: Tensor, first: Sequence[Tensor], rolls: Rolls, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the derivatives by ``first`` and the gate from that by :func:`gated` (E, T, C) of the others."""
    (num_edges, channels), taps = gate.shape, rolls.waves.shape[0]
    is_bfloat16, *arguments = _gated(first, rolls, bias, gate, gate_bias)
    _check(gradient, (num_edges, taps, channels), gate.dtype)
    of_first, of_gate = [torch.empty_like(u) for u in first], torch.empty_like(gate)
    addresses = (ctypes.c_void_p * len(of_first))(*(u.data_ptr() for u in of_first))
    last = gradient.data_ptr(), addresses, of_gate.data_ptr(), channels, num_edges, torch.get_num_threads()
    _call("gated_derivative", is_bfloat16, *arguments, *last)
    return of_first, of_gate


def _gated(
    first: Sequence[Tensor], rolls: Rolls, bias: Tensor, gate: Tensor, gate_bias: Tensor
) -> tuple[Any, ...]:
    waves, layout = rolls
    num_edges, channels = gate.shape
    for tensor, shape in ((gate, gate.shape), (bias, (channels,)), (gate_bias, (channels,))):
        _check(tensor, shape, gate.dtype)
    taps, number = waves.shape
    _check(waves, (taps, len(layout.rows)), torch.float32)
    by_row = [u.unsqueeze(1) if u.dim() == 2 else u for u in first]
    is_bfloat16, *places = _places(by_row, layout, num_edges, channels)
    _check(first[0], None, gate.dtype)
    biased = bias.data_ptr(), gate.data_ptr(), gate_bias.data_ptr()
    return is_bfloat16, *places, number, waves.data_ptr(), taps, *biased


def _activation(x: Tensor, bias: Tensor | None) -> tuple[int | None, ...]:
    _check(x)
    if bias is not None:
        _check(bias, x.shape[-1:], x.dtype)
    return _is_bfloat16(x), x.data_ptr(), None if bias is None else bias.data_ptr()


def _size(x: Tensor) -> tuple[int, int, int]:
    width = x.shape[-1] if x.dim() else 1
    return x.numel() // max(width, 1), width, torch.get_num_threads()


class Mean(NamedTuple):
    """How coefficients of edge frames rolled T times enter the mean of the rolls that are rolled back.

    Attributes:
        own: (T, S) float32; coefficient s of roll t counts own[t, s] times in coefficient s.
        cross: (T, S) float32; it counts cross[t, s] times in coefficient partner[s].
        partner: (S,) that of the opposite order; s itself for order 0. Not checked.
    """

    own: Tensor
    cross: Tensor
    partner: Tensor


def average(values: Tensor, bias: Tensor, mean: Mean) -> Tensor:
    """Return the mean (E, S, C), float32, of SiLU(values + bias) over T rolls.

    Args:
        values: (E, T, S C) contiguous, float32 or bfloat16.
        bias: (S C,) float32.
        mean: what T, S and the mean are.
    """
    num_edges, channels, *arguments = _rolled(values, bias, mean)
    result = values.new_empty(num_edges, mean.own.shape[1], channels, dtype=torch.float32)
    _call("average", *arguments, result.data_ptr(), num_edges, torch.get_num_threads())
    return result


def average_derivative(gradient: Tensor, values: Tensor, bias: Tensor, mean: Mean) -> Tensor:
    """Return the derivative by values from that by their mean (E, S, C); the others as in :func:`average`."""
    num_edges, channels, *arguments = _rolled(values, bias, mean)
    _check(gradient, (num_edges, mean.own.shape[1], channels), torch.float32)
    result = torch.empty_like(values)
    results = gradient.data_ptr(), result.data_ptr()
    _call("average_derivative", *arguments, *results, num_edges, torch.get_num_threads())
    return result


def _rolled(values: Tensor, bias: Tensor, mean: Mean) -> tuple[int, ...]:
    taps, kept = mean.own.shape
    num_edges, channels = values.shape[0], bias.numel() // kept
    _check(values, (num_edges, taps, kept * channels))
    for tensor, shape, dtype in (
        (bias, (kept * channels,), torch.float32),
        (mean.own, (taps, kept), torch.float32),
        (mean.cross, (taps, kept), torch.float32),
        (mean.partner, (kept,), torch.int64),
    ):
        _check(tensor, shape, dtype)
    tables = (tensor.data_ptr() for tensor in mean)
    of_values = _is_bfloat16(values), values.data_ptr(), bias.data_ptr()
    return num_edges, channels, *of_values, taps, kept, *tables, channels


def turn(x: Tensor, atoms: Tensor, rotations: Rotations, parts: Sequence[Tensor], layout: Layout) -> None:
    """Turn signals of atoms into edge frames: row s of edge e becomes sum_k D_e[s, k] x[atoms[e], k].

    Args:
        x: (A, K', C) float32 signals; coefficients beyond (lmax + 1)**2 do not count.
        atoms: (E,) index of each edge's atom, from 0 to A - 1, which is not checked.
        rotations: D.
        parts: where to put the rows, (E, rows, C) each, contiguous, float32 or bfloat16.
        layout: of the parts.
    """
    _, _, channels = _check_signal(x, rotations)
    _check(atoms, (rotations.blocks.shape[0],), torch.int64)
    is_bfloat16, *places = _places(parts, layout, atoms.shape[0], channels)
    signal = x.data_ptr(), x.stride(0), channels, atoms.data_ptr()
    _call("turn", is_bfloat16, *signal, *_rows(rotations), *places, atoms.shape[0], torch.get_num_threads())


def sum_back(
    x: Tensor,
    edges: Tensor,
    starts: Tensor,
    rotations: Rotations,
    parts: Sequence[Tensor],
    layout: Layout,
    *,
    add: bool,
) -> None:
    """Turn edges' rows back and sum them at atoms: x[a, k] becomes sum_(e, s) D_e[s, k] (row s of e).

    It is the transpose of :func:`turn`.

    Args:
        x: (A, K', C) float32, where to put the sums; coefficients beyond (lmax + 1)**2 stay as they are.
        edges: (E,) the edges atom by atom, which is not checked.
        starts: (A + 1,) where those of each atom begin in ``edges``, and E.
        rotations: D.
        parts: the rows, (E, rows, C) each, contiguous, float32 or bfloat16; a row is what lies in both
            places together.
        layout: of the parts.
        add: whether to add to what is in ``x``.
    """
    num_atoms, _, channels = _check_signal(x, rotations)
    _check(edges, (rotations.blocks.shape[0],), torch.int64)
    _check(starts, (num_atoms + 1,), torch.int64)
    is_bfloat16, *places = _places(parts, layout, edges.shape[0], channels)
    signal = x.data_ptr(), x.stride(0), channels, edges.data_ptr(), starts.data_ptr()
    last = int(add), num_atoms, torch.get_num_threads()
    _call("sum", is_bfloat16, *signal, *_rows(rotations), *places, *last)


class _Row(ctypes.Structure):
    _fields_ = (
        ("part", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("twin", ctypes.c_int64),
        ("sign", ctypes.c_float),
    )


@lru_cache(maxsize=64)
def _table(layout: Layout) -> tuple[Any, Any]:
    """Return a layout's sizes and rows as the kernels read them."""
    for part, *rows, _ in layout.rows:
        if not 0 <= part < len(layout.sizes) or not -1 <= min(rows) <= max(rows) < layout.sizes[part]:
            raise ValueError(f"row {rows} of part {part} is outside of the sizes {layout.sizes}")
    sizes = (ctypes.c_int64 * len(layout.sizes))(*layout.sizes)
    return sizes, (_Row * len(layout.rows))(*(_Row(*row) for row in layout.rows))


def _places(parts: Sequence[Tensor], layout: Layout, num_edges: int, channels: int) -> tuple[Any, ...]:
    """Return whether the parts are bfloat16, and the addresses of parts and layout; all checked."""
    for part, size in zip(parts, layout.sizes, strict=True):
        _check(part, (num_edges, size, channels), parts[0].dtype)
    addresses = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    return _is_bfloat16(parts[0]), addresses, *_table(layout)


def _check_signal(x: Tensor, rotations: Rotations) -> torch.Size:
    size = (rotations.lmax + 1) ** 2
    if x.dim() != 3 or x.shape[1] < size or x.dtype != torch.float32 or x.stride()[1:] != (x.shape[2], 1):
        got = f"{tuple(x.shape)} {x.dtype} with strides {x.stride()}"
        raise ValueError(f"signals are {got}; expected (A, {size} or more, C) torch.float32")
    return x.shape


def _rows(rotations: Rotations) -> tuple[int, ...]:
    blocks, lmax, mmax = rotations
    size = _size_of_blocks(lmax, mmax)
    _check(blocks, (blocks.shape[0], size), torch.float32)
    return blocks.data_ptr(), size, lmax, mmax


@cache
def _size_of_blocks(lmax: int, mmax: int) -> int:
    return sum((2 * min(degree, mmax) + 1) * (2 * degree + 1) for degree in range(lmax + 1))


def _check(t: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> None:
    shape, dtype = t.shape if shape is None else shape, dtype or t.dtype
    if not t.is_contiguous() or t.shape != shape or t.dtype != dtype:
        got = f"{tuple(t.shape)} {t.dtype} with strides {t.stride()}"
        raise ValueError(f"a tensor is {got}; expected {tuple(shape)} {dtype}, contiguous")


def _is_bfloat16(t: Tensor) -> int:
    if t.dtype not in _PRECISIONS or t.device.type != "cpu":
        raise ValueError(f"a tensor is {t.dtype} on {t.device}; expected float32 or bfloat16 on a processor")
    return int(t.dtype == torch.bfloat16)


_ADDRESS, _NUMBER, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ROLLED = [_FLAG, _ADDRESS, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS, _ADDRESS, _NUMBER]
_SIGNAL = [_ADDRESS, _NUMBER, _NUMBER, _ADDRESS]
_ROWS = [_ADDRESS, _NUMBER, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS, _ADDRESS]
_GATED = [_FLAG, *[_ADDRESS] * 3, _NUMBER, _ADDRESS, _NUMBER, *[_ADDRESS] * 3]
_ARGUMENTS = {
    "gated": [*_GATED, _ADDRESS, _NUMBER, _NUMBER, _FLAG],
    "gated_derivative": [*_GATED, *[_ADDRESS] * 3, _NUMBER, _NUMBER, _FLAG],
    "silu": [_FLAG, *[_ADDRESS] * 3, _NUMBER, _NUMBER, _FLAG],
    "silu_derivative": [_FLAG, *[_ADDRESS] * 4, _NUMBER, _NUMBER, _FLAG],
    "average": [*_ROLLED, _ADDRESS, _NUMBER, _FLAG],
    "average_derivative": [*_ROLLED, _ADDRESS, _ADDRESS, _NUMBER, _FLAG],
    "turn": [_FLAG, *_SIGNAL, *_ROWS, _NUMBER, _FLAG],
    "sum": [_FLAG, *_SIGNAL, _ADDRESS, *_ROWS, _FLAG, _NUMBER, _FLAG],
}


def _call(name: str, *arguments: object) -> None:
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not compiled here; see ocp_scn.kernels.usable")
    getattr(library, f"ocp_scn_{name}")(*arguments)


@cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernels with threads of torch's OpenMP; None where there are no such things."""
    compiled = FOLDER / f"_compiled{EXTENSION_SUFFIXES[0]}"
    wanted = os.environ.get(SWITCH, "")
    if wanted not in ("", "0", "1", *INSTRUCTION_SETS):
        raise ValueError(f"{SWITCH} is {wanted!r}; expected 0, 1, {', '.join(INSTRUCTION_SETS)}")
    if wanted == "0" or not compiled.exists():
        return None
    try:
        # A second OpenMP would have threads of its own, which wait for work in the way of torch's.
        ctypes.CDLL(_openmp_of_torch(), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(compiled))
        if library.ocp_scn_source() % 2**32 != crc32(b"".join(path.read_bytes() for path in SOURCES)):
            return None  # compiled of another version of the sources
        for name, types in _ARGUMENTS.items():
            function = getattr(library, f"ocp_scn_{name}")
            function.argtypes, function.restype = types, None
    except (OSError, AttributeError):
        return None
    if wanted in INSTRUCTION_SETS:
        there = _instruction_sets(library)
        if wanted not in there:
            raise ValueError(
                f"{SWITCH} is {wanted!r}; there is code for this processor with {', '.join(there)}"
            )
        library.ocp_scn_take(INSTRUCTION_SETS.index(wanted))
    return library


def _openmp_of_torch() -> str:
    """Return the path of the OpenMP library that this process has loaded, torch's own if there are several.

    Raises:
        OSError: there is none.
    """
    paths = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    loaded = sorted(path for path in paths if re.search(r"/lib(gomp|iomp5|omp)[^/]*\.so", path))
    if not loaded:
        raise OSError("no OpenMP library is loaded")
    of_torch = str(Path(torch.__file__).parent)  # torch/lib, or torch.libs beside it
    return next((path for path in loaded if path.startswith(of_torch)), loaded[0])
