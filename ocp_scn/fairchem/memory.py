"""Batches that are too large for the memory: what to lower, in one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.neighbors import batch_graph

# torch has no class of its own for what a CPU's memory does not hold.
_MESSAGES = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, a GPU's or the host's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


@contextmanager
def memory_named(model: Any, setting: str) -> Iterator[None]:
    """Raise what `out_of_memory` returns where a model computes batches for which the memory is too small.

    Args:
        model: of the run; the forward of what is in its wrappers is watched.
        setting: as there.
    """
    batch: Any = None

    def note(_: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal batch
        batch = inputs[0]

    inner = model
    while hasattr(inner, "module"):
        inner = inner.module
    watched = inner.register_forward_pre_hook(note)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(error, model, batch, setting) from error
    finally:
        watched.remove()


def out_of_memory(error: BaseException, model: Any, batch: Any, setting: str) -> InputError:
    """Return what an error means to a user.

    Args:
        error: for which `is_out_of_memory` holds; what its frames hold is given up.
        model: of the run.
        batch: that was computed; None before the first one.
        setting: says which one to lower, with its value.
    """
    traceback.clear_frames(error.__traceback__)
    memory = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "the memory"
    if batch is None:
        return InputError(f"{memory} is too small for the run, before its first batch")
    systems, atoms = len(batch.natoms), int(batch.natoms.sum())
    line = f"{memory} is too small for a batch of {systems} systems, {atoms} atoms{_edges(model, batch)}"
    lower = f"lower {setting}" if systems > 1 else "take a smaller model, fewer neighbours or another device"
    return InputError(f"{line}; {lower}")


def _edges(model: Any, batch: Any) -> str:
    """Return how many edges the batch has, where there is memory for the graph alone."""
    network = next((part for part in model.modules() if isinstance(part, BatchSCN)), None)
    if network is None:
        return ""
    try:
        with torch.no_grad():
            return f", {len(batch_graph(batch, network.config, network.search).vec)} edges"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return ""
