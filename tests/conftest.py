"""What every test starts from: one thread, a fixed seed, and torch's default dtype."""

import os

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
