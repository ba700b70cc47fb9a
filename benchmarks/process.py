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

# Calls are timed for as long as this, after others for as long, which load libraries and fill caches.
SECONDS = 2.0


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
        ``atoms``; for our model also ``edges``, needed ``flops`` and ``graph_seconds``.

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
    _seconds(run, batch)
    return {**facts, "seconds": statistics.median(_seconds(run, batch))}


def _seconds(run: Callable[[Any], None], batch: Any) -> list[float]:
    """Return the times of calls, one at least, that fill SECONDS."""
    times: list[float] = []
    while sum(times) < SECONDS:
        start = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - start)
    return times


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
