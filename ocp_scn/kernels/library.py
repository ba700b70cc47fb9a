"""The compiled kernels: whether there are any, and for which instructions; calls of them."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

SWITCH = "OCP_SCN_KERNELS"
INSTRUCTION_SETS = ("any", "avx2", "avx512")
PRECISIONS = (torch.float32, torch.bfloat16)
FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "kernels.cpp", FOLDER / "ranges.h")
_disabled = 0

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


def usable(*tensors: Tensor) -> bool:
    """Whether there are kernels for tensors of this kind, in this process and now."""
    if _disabled or _missing():
        return False
    return all(t.is_cpu and t.dtype in PRECISIONS for t in tensors)


@torch.compiler.assume_constant_result
def _missing() -> bool:
    return _library() is None


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


def call(name: str, *arguments: object) -> None:
    """Call a kernel by its name without prefix; its arguments are not checked."""
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
