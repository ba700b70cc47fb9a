"""How much is computed at once, on CPUs and on GPUs."""

import torch

from ocp_scn.nn import MessageBlock
from ocp_scn.ops.chunks import CPU, LARGEST_ON_GPU, SHARE_OF_FREE, as_if, chunk_sizes, gpu_sizes

GIB = 2**30


def published(num_taps):
    """Return the messages of near edges as published."""
    with torch.device("meta"):
        return MessageBlock(lmax=6, mmax=1, num_taps=num_taps, channels=128, hidden=8, num_features=8)


def test_a_usual_batch_is_one_chunk_on_a_gpu():
    """Eight slabs of 66 atoms with 12 near edges each, four taps, 70 GiB free."""
    edges = 8 * 66 * 12
    assert min(published(num_taps=4).max_edges(gpu_sizes(70 * GIB))) >= edges
    assert max(published(num_taps=4).max_edges(CPU)) < edges


def test_memory_bounds_chunks_of_large_systems():
    """The largest tensor takes no more than its share of what is free, and never less than on a CPU."""
    for free in (4 * GIB, 8 * GIB, 24 * GIB):
        sizes = gpu_sizes(free)
        assert all(cpu <= size for cpu, size in zip(CPU, sizes, strict=True))
        assert all(4 * size <= SHARE_OF_FREE * free for size in sizes)
    assert set(gpu_sizes(1000 * GIB)) == {LARGEST_ON_GPU}
    assert gpu_sizes(0) == CPU


def test_a_cpu_has_its_own_sizes():
    """They change only where a program says so, and come back."""
    cpu = torch.device("cpu")
    assert chunk_sizes(cpu) == CPU
    with as_if(gpu_sizes(GIB)):
        assert chunk_sizes(cpu) == gpu_sizes(GIB)
    assert chunk_sizes(cpu) == CPU
