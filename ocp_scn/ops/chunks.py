"""How many edges and grid points are computed at once, by device: the only place with such numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class ChunkSizes(NamedTuple):
    """Numbers that the largest tensor of a chunk has.

    Attributes:
        message: of edges, from the first map to the second; a tensor of one tap counts.
        last_map: of edges in a message's last map, whose values of all taps count.
        grid: of grid points at inference.
        grid_recorded: the same where derivatives are recorded: what a chunk computes again in the backward
            pass comes on top of all that is kept.
    """

    message: int
    last_map: int
    grid: int
    grid_recorded: int


# Enough edges for efficient matrix products, few enough for a CPU's caches.
CPU = ChunkSizes(message=2**21, last_map=2**21, grid=2**21, grid_recorded=3 * 2**19)
# A GPU is fast where the host has little to launch: usual batches are one chunk of at most 1 GiB in float32.
LARGEST_ON_GPU = 2**28
# Of the memory that is free on a GPU, what one of a chunk's tensors may take; there are up to four at a time.
SHARE_OF_FREE = 1 / 16
# Inputs whose host has more to do than the GPU; recordings of larger ones would save nothing and hold memory.
MOST_REPLAYED_EDGES = 2**16

_as_if: list[ChunkSizes] = []


def chunk_sizes(device: torch.device) -> ChunkSizes:
    """Return the sizes for a device; on a GPU they depend on the memory that is free at the moment."""
    if _as_if:
        return _as_if[-1]
    return gpu_sizes(_free_bytes(device)) if device.type == "cuda" else CPU


def gathered_at_once(device: torch.device) -> int:
    """Return how many numbers of weights to gather at once; no GPU is asked for its free memory."""
    if _as_if:
        return _as_if[-1].message
    return CPU.message if device.type == "cpu" else LARGEST_ON_GPU


def gpu_sizes(free_bytes: int) -> ChunkSizes:
    """Return the sizes for a GPU with this much free memory, never less than those of a CPU."""
    in_float32 = int(free_bytes * SHARE_OF_FREE) // 4
    return ChunkSizes(*(max(cpu, min(LARGEST_ON_GPU, in_float32)) for cpu in CPU))


@contextmanager
def as_if(sizes: ChunkSizes) -> Iterator[None]:
    """Have every device take these sizes within the block: to count a GPU's operators on a CPU, say."""
    _as_if.append(sizes)
    try:
        yield
    finally:
        _as_if.pop()


def _free_bytes(device: torch.device) -> int:
    """Return what is free on a GPU, with what torch holds there and has no tensor in."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
