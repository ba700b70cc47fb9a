"""The measurement of one call of one model, in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Batch

from benchmarks.devices import Device, device_of, float32_products, matrix_product_rate
from benchmarks.flops import needed_flops
from benchmarks.models import build, predict, train_step
from benchmarks.store import ROOT
from benchmarks.structures import slab, slabs
from ocp_scn.fairchem.neighbors import batch_graph

# Calls are timed for as long as this, after others for as long, which load libraries and fill caches.
SECONDS = 2.0
# Floating-point operations a second in large matrix products, in float32 and in the precision measured.
RATES = ("matrix_product_rate", "matrix_product_rate_of_precision")


def measure(
    model: str,
    call: str,
    *,
    atoms: int,
    batch_size: int = 1,
    threads: int = 2,
    device: str = "cpu",
    precision: str = "float32",
    cuda_graphs: bool = False,
) -> dict[str, Any]:
    """Start a process, have it measure, and return what it found.

    Args:
        model: a name that `benchmarks.models.build` knows.
        call: ``inference`` or ``training``.
        atoms: of each slab, about.
        batch_size: slabs at once.
        threads: of the process.
        device: ``cpu`` or ``cuda``.
        precision: of matrix products, one of `benchmarks.devices.PRECISIONS`.
        cuda_graphs: the setting of our model.

    Returns:
        ``seconds`` of a call (the median of several), ``bytes`` at the peak of a first one, ``parameters``,
        ``atoms`` and the `RATES`; on a GPU also ``launches`` and ``waits``; for our model ``edges``,
        needed ``flops`` and ``graph_seconds``.

    Raises:
        RuntimeError: the process ended early.
    """
    settings = {"model": model, "call": call, "atoms": atoms, "batch_size": batch_size}
    settings |= {"threads": threads, "device": device, "precision": precision, "cuda_graphs": cuda_graphs}
    command = [sys.executable, "-m", "benchmarks.process", json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{settings} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(
    model: str,
    call: str,
    *,
    atoms: int,
    batch_size: int,
    threads: int,
    device: str,
    precision: str,
    **changes: Any,
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    on = device_of(device)
    with float32_products(precision):
        return _measure_on(on, model, call, slabs(atoms, batch_size).to(on.device), precision, **changes)


def _measure_on(
    on: Device, model: str, call: str, batch: Any, precision: str, **changes: Any
) -> dict[str, Any]:
    ours = model.startswith("ours")
    network: Any = build_in(precision, model, **changes).to(on.device)
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "atoms": len(batch.pos),
    }
    if ours:
        graph = batch_graph(batch, network.config)
        facts["graph_seconds"] = on.seconds(lambda: batch_graph(batch, network.config))
        facts["flops"] = needed_flops(network.config, graph, len(batch.pos), training=False)
        facts["edges"] = len(graph.source)

    network.train(call == "training")
    # fairchem's SCN and eSCN do not run under autocast on a CPU, and stay in float32 there.
    autocast = not ours and on.device.type == "cuda"
    run = calls_in(precision, network, on, autocast=autocast)[call]
    run(Batch.from_data_list([slab((1, 1, 1), 0)]).to(on.device))
    # With the gradients' memory freed at first, a step's peak would be that of its forward pass.
    beyond_gradients = partial(run, keep_gradients=True) if call == "training" else run
    facts["bytes"] = on.peak_bytes(lambda: beyond_gradients(batch))
    _times(on, lambda: run(batch))
    precisions = "float32", precision
    before = [matrix_product_rate(on, of) for of in precisions]
    facts["seconds"] = statistics.median(_times(on, lambda: run(batch)))
    for name, of, rate in zip(RATES, precisions, before, strict=True):
        facts[name] = (rate + matrix_product_rate(on, of)) / 2
    return {**facts, **on.calls(lambda: run(batch))}


def build_in(precision: str, model: str, **changes: Any) -> nn.Module:
    """Return a model by its name, ours with the ``compute_dtype`` for a precision and other settings."""
    if precision == "bfloat16" and model.startswith("ours"):
        changes["compute_dtype"] = "bfloat16"
    return build(model, **changes)


def calls_in(
    precision: str, network: nn.Module, on: Device, *, autocast: bool
) -> dict[str, Callable[..., None]]:
    """Return the kinds of call of a batch, with autocast to bfloat16 if the precision is to come of that."""
    context = partial(
        torch.autocast, on.device.type, torch.bfloat16, enabled=autocast and precision == "bfloat16"
    )

    def infer(batch: Any) -> None:
        with torch.no_grad(), context():
            predict(network, batch)

    def train(batch: Any, *, keep_gradients: bool = False) -> None:
        with context():
            train_step(network, batch, keep_gradients=keep_gradients)

    return {"inference": infer, "training": train}


def _times(on: Device, call: Callable[[], Any]) -> list[float]:
    """Return the times of calls, one at least, that fill SECONDS."""
    times: list[float] = []
    while sum(times) < SECONDS:
        times.append(on.seconds(call))
    return times


if __name__ == "__main__":
    print(json.dumps(_measure_here(**json.loads(sys.argv[1]))))
