"""The compiled kernels: whether there are any, and for which instructions; calls of them."""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from zlib import crc32

import torch

SWITCH = "OCP_SCN_KERNELS"
INSTRUCTION_SETS = ("any", "avx2", "avx512")
FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "kernels.cpp", FOLDER / "ranges.h")

_ADDRESS, _NUMBER, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_WIGNER = [_ADDRESS, _NUMBER, _NUMBER, _NUMBER]
_ROWS = [_ADDRESS, _NUMBER, _NUMBER]
_FIRST = [_ADDRESS, _ADDRESS, _ADDRESS, _NUMBER, _NUMBER, *[_ADDRESS] * 3]
_TAPS = [_ADDRESS, _ADDRESS, _NUMBER, _NUMBER, *[_ADDRESS] * 3, _NUMBER]
_SIZE = [_NUMBER, _FLAG]
_ARGUMENTS = {
    "node_to_edge": [_FLAG, _ADDRESS, *[_NUMBER] * 3, _ADDRESS, *_WIGNER, *_ROWS, _ADDRESS, *_SIZE],
    "edge_to_node": [
        *[_FLAG, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS, *_WIGNER, *_ROWS, _NUMBER],
        *[_ADDRESS, _FLAG, *_SIZE],
    ],
    "wigner_gradient": [
        *[_FLAG, _ADDRESS, _ADDRESS, *[_NUMBER] * 3, _ADDRESS, *_WIGNER[1:], *_ROWS],
        *[_ADDRESS, *_SIZE],
    ],
    "bias_silu": [_FLAG, *[_ADDRESS] * 3, _NUMBER, *_SIZE],
    "bias_silu_backward": [_FLAG, *[_ADDRESS] * 4, _NUMBER, *_SIZE],
    "gate": [_FLAG, *_FIRST, _ADDRESS, _NUMBER, *_SIZE],
    "gate_backward": [_FLAG, _ADDRESS, *_FIRST, *[_ADDRESS] * 2, _NUMBER, *_SIZE],
    "tap_mean": [_FLAG, *_TAPS, _ADDRESS, *_SIZE],
    "tap_mean_backward": [_FLAG, _ADDRESS, *_TAPS, _ADDRESS, *_SIZE],
}


def compiled() -> bool:
    """Whether there are compiled kernels in this process."""
    return _library() is not None


def instruction_sets() -> tuple[str, ...]:
    """Return those of `INSTRUCTION_SETS` that this processor has, the best one last."""
    library = _library()
    return () if library is None else _instruction_sets(library)


def _instruction_sets(library: ctypes.CDLL) -> tuple[str, ...]:
    return INSTRUCTION_SETS[: library.ocp_scn_best() + 1]


def call(name: str, *arguments: object) -> int | None:
    """Call a kernel by its name without prefix, and return what it does; its arguments are not checked."""
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not compiled here; see ocp_scn.ops.cpu.compiled")
    return getattr(library, f"ocp_scn_{name}")(*arguments)


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
            function.argtypes = types
            function.restype = _FLAG if name in ("node_to_edge", "wigner_gradient") else None
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
