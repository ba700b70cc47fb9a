"""One kind of call of one model, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Batch

from benchmarks.flops import needed_flops
from benchmarks.models import build, predict, train_step
from benchmarks.store import ROOT
from benchmarks.structures import slab, slabs
from ocp_scn.nn.products import product

# Calls are timed for as long as this, after others for as long, which load libraries and fill caches.
SECONDS = 2.0
# Floating-point operations a second in large matrix products, in float32 and in the model's dtype.
RATES = ("matrix_product_rate", "matrix_product_rate_of_dtype")


def measure(
    model: str, call: str, *, atoms: int, batch_size: int = 1, threads: int = 2, dtype: str = "float32"
) -> dict[str, Any]:
    """Start a process, have it measure, and return what it found.

    Args:
        model: a name that :func:`benchmarks.models.build` knows.
        call: ``inference`` or ``training``.
        atoms: of each slab, about.
        batch_size: slabs at once.
        threads: of the process.
        dtype: ``compute_dtype`` of our model.

    Returns:
        ``seconds`` of a call (the median of several), ``bytes`` at the peak of a first one, ``parameters``,
        ``atoms`` and the :data:`RATES`; for our model also ``edges``, needed ``flops`` and ``graph_seconds``.

    Raises:
        RuntimeError: the process ended early.
    """
    settings = {"model": model, "call": call, "atoms": atoms, "batch_size": batch_size}
    settings |= {"threads": threads, "dtype": dtype}
    command = [sys.executable, "-m", "benchmarks.process", json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{settings} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(
    model: str, call: str, *, atoms: int, batch_size: int, threads: int, dtype: str
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    ours = model.startswith("ours")
    network = build(model, **({"compute_dtype": dtype} if ours and dtype != "float32" else {}))
    batch = slabs(atoms, batch_size)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "atoms": len(batch.pos),
    }
    if ours:
        network._graph(batch)
        start = time.perf_counter()
        graph = network._graph(batch)
        facts["graph_seconds"] = time.perf_counter() - start
        facts["flops"] = needed_flops(network.config, graph, len(batch.pos), training=False)
        facts["edges"] = len(graph.source)

    def infer(batch: Any) -> None:
        with torch.no_grad():
            predict(network, batch)

    def train(batch: Any, *, keep_gradients: bool = False) -> None:
        train_step(network, batch, keep_gradients=keep_gradients)

    network.train(call == "training")
    run = {"inference": infer, "training": train}[call]
    run(Batch.from_data_list([slab((1, 1, 1), 0)]))
    # With the gradients' memory freed at first, a step's peak would be that of its forward pass.
    beyond_gradients = partial(train, keep_gradients=True) if call == "training" else infer
    facts["bytes"] = peak_bytes(lambda: beyond_gradients(batch))
    _times(lambda: run(batch))
    dtypes = torch.float32, getattr(torch, dtype)
    before = [matrix_product_rate(of) for of in dtypes]
    facts["seconds"] = statistics.median(_times(lambda: run(batch)))
    for name, of, rate in zip(RATES, dtypes, before, strict=True):
        facts[name] = (rate + matrix_product_rate(of)) / 2
    return facts


def _times(call: Callable[[], Any]) -> list[float]:
    """Return the times of calls, one at least, that fill SECONDS."""
    times: list[float] = []
    while sum(times) < SECONDS:
        times.append(_seconds(call))
    return times


@torch.no_grad()
def matrix_product_rate(dtype: torch.dtype = torch.float32) -> float:
    """Return the machine's floating-point operations a second in a large matrix product.

    The product is that of the library, and of the layout in memory, that our model takes here.
    """
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype).mT
    product(a, b)
    return 4 * 2 * 2048**3 / _seconds(lambda: [product(a, b) for _ in range(4)])


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_bytes(call: Callable[[], None]) -> int:
    """Return by how much a call raises the resident set, bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that the peak is this call's
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    print(json.dumps(_measure_here(**json.loads(sys.argv[1]))))
