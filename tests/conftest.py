"""What every test starts from: one thread, a fixed seed, and torch's default dtype."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

# Processes of the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def same_start():
    """Give each test the same seed, and the next one the same default dtype."""
    before = torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let processes answer Ctrl-C, also where a shell has started the tests with &, and they inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
