"""What is measured differently on CPUs and GPUs: time, memory, launches, the rate of matrix products."""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ocp_scn.errors import InputError
from ocp_scn.nn.products import product

# Precisions of matrix products, and the dtype of their factors; a GPU can round those in float32 to TF32.
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
# CUDA's calls that start a kernel, by their first letters, and those that wait for what was started. torch
# waits for the whole device nowhere; who measures does.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchCooperativeKernel", "cuLaunchKernel")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


class CPU:
    """Measures by the clock and the resident set."""

    device = torch.device("cpu")
    products = 2048  # rows and columns of large matrices

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return how long a call takes."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Return by how much a call raises the resident set."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that the peak is this call's
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before

    def calls(self, call: Callable[[], Any]) -> dict[str, int]:
        """Return nothing: there is no device to call."""
        return {}


class CUDA:
    """Measures by CUDA's events, torch's allocator and torch's profiler."""

    device = torch.device("cuda")
    products = 8192

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return how long a call takes, until its last kernel has ended."""
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Return by how much a call raises the memory that tensors take."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def calls(self, call: Callable[[], Any]) -> dict[str, int]:
        """Return how many kernels a call launches, and how often the host waits for them."""
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            call()
            torch.cuda.synchronize()
        return launches_and_waits(found.key_averages())


Device = CPU | CUDA


def launches_and_waits(events: Iterable[Any]) -> dict[str, int]:
    """Return ``launches`` and ``waits`` of a profile's averages, each with a ``key`` and a ``count``."""
    events = list(events)
    return {
        "launches": sum(event.count for event in events if event.key.startswith(LAUNCHES)),
        "waits": sum(event.count for event in events if event.key in WAITS),
    }


@torch.no_grad()
def matrix_product_rate(on: Device, precision: str) -> float:
    """Return a device's floating-point operations a second in a large matrix product.

    The product is that of the library, and of the layout in memory, that our model takes here.
    """
    size, dtype = on.products, PRECISIONS[precision]
    a, b = (torch.randn(size, size, device=on.device).to(dtype) for _ in range(2))
    with float32_products(precision):
        product(a, b.mT)
        return 4 * 2 * size**3 / on.seconds(lambda: [product(a, b.mT) for _ in range(4)])


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Have a GPU compute products of float32 in TF32 within the block if that is the precision, else not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--precision`` to a command line."""
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)"
    )
    parser.add_argument(
        "--precision",
        "--dtype",
        choices=list(PRECISIONS),
        default="float32",
        help="precision of matrix products: compute_dtype of our model, autocast of others on a GPU "
        "(default: float32)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `InputError` for a device that is not there, or a precision that it has not."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device")
    if args.device == "cpu" and args.precision == "tf32":
        raise InputError("--precision tf32: a CPU has float32 and bfloat16; TF32 goes with --device cuda")


def results_path(args: argparse.Namespace, default: Path) -> Path:
    """Return the file for the results: that of the command line, else one for each kind of device."""
    if args.results is not None:
        return args.results
    return default if args.device == "cpu" else default.with_stem(f"{default.stem}-{args.device}")


def device_of(name: str) -> Device:
    """Return what measures on ``cpu`` or ``cuda``."""
    return CUDA() if name == "cuda" else CPU()


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
