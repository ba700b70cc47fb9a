"""Errors of each precision, on a small model."""

import pytest
import torch

from benchmarks.errors import PRECISIONS, errors, to_tf32


def test_tf32_has_ten_bits():
    """Numbers are rounded to the nearest one with 10 bits after the point, halves to even."""
    steps = torch.tensor([0.0, 0.49, 0.5, 0.51, 1.0, 1.5])
    found = to_tf32(1 + steps * 2.0**-10)
    assert ((found - 1) * 2**10).tolist() == [0, 0, 0, 1, 1, 2]
    assert torch.equal(to_tf32(-found), -found)


def test_errors_grow_with_rounding():
    """float32 is nearest to float64, then TF32, then bfloat16."""
    small = {
        "num_interactions": 2,
        "sphere_channels": 16,
        "sphere_channels_reduce": 16,
        "hidden_channels": 32,
    }
    found = errors("t1-b1", num_systems=1, **small)
    assert [record["precision"] for record in found] == list(PRECISIONS)
    relative = [record["relative"] for record in found]
    assert relative == sorted(relative)
    assert relative[0] == pytest.approx(0, abs=1e-4)
    assert relative[1] > 10 * relative[0]
