"""What a forward and a backward pass cost is what docs/results/counts.json says."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.calls import counted
from benchmarks.counts import RESULTS, count, count_operators

VARIANTS = ["t1-b1", "t4-b2"]
# Operators that a GPU may be called with, from the graph to the predictions.
MOST = {
    "t1-b1": {"inference": 700, "training": 2200},
    "t4-b2": {"inference": 800, "training": 2600},
}
MOST_WAITS = 2


def recorded(variant):
    return json.loads(RESULTS.read_text())[variant]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_are_those_on_record(variant):
    """A difference is no fault, but it has to be seen: ``python -m benchmarks.counts`` records it."""
    found = count(variant)
    assert found == pytest.approx({key: recorded(variant)[key] for key in found}, rel=1e-6)
    # Beyond what is needed, torch counts the products that make frames and Wigner matrices.
    assert found["flops"] <= found["counted_flops"] <= 1.001 * found["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_operators_are_those_on_record_and_few(variant):
    found = count_operators(variant)
    assert found == {call: recorded(variant)[call] for call in found}
    for call, most in MOST[variant].items():
        assert found[call]["operators"]["batch"] <= most
        assert found[call]["waits"]["batch"] <= MOST_WAITS


def test_views_are_no_operators():
    x, y = torch.ones(2, 4, 6), torch.ones(6, 3)
    with counted() as counter:
        x.view(2, 24).mT[0].split(1)
        x.add_(1)  # in place
        x @ y  # a product of matrices, and a view of it
    assert counter.calls == {"add_": 1, "mm": 1}
    assert counter.bytes == 4 * (2 * 4 * 3)


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda x: x + 1, 0),
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu().numpy(), 1),
        (lambda x: x.to("cpu", copy=True), 1),
        (lambda x: x.double(), 0),
        (lambda x: x[x > 0], 1),
        (lambda x: x[torch.tensor([0, 1])], 0),
        (lambda x: torch.tensor([0], device=x.device), 1),
        (lambda x: torch.where(x > 0, 1.0, -1.0), 2),
        (lambda x: torch.where(x > 0, x, -x), 0),
        (lambda x: torch.repeat_interleave(x.long()), 1),
        (lambda x: torch.repeat_interleave(x.long(), output_size=4), 0),
        (lambda x: torch.linalg.inv(torch.diag(x)), 1),
        (lambda x: torch.linalg.pinv(torch.diag(x)), 1),
    ],
)
def test_waits_are_seen(call, number):
    x = torch.ones(4)
    with counted() as counter:
        call(x)
    assert sum(counter.waits.values()) == number
