"""Constant tables of modules."""

import copy

import pytest
import torch
from torch import nn

from ocp_scn.sphere import TableModule, default_dtype

VALUES = torch.tensor([1 / 3, 2 / 7, 1e-3], dtype=torch.float64)


class Thirds(TableModule):
    """A module with a table and a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_table("thirds", VALUES)


class Nest(nn.Module):
    """A module that holds one with a table."""

    def __init__(self):
        super().__init__()
        self.inner = Thirds()


def test_table_has_the_default_dtype():
    """In float32 the table is the rounded values, in float64 the values themselves."""
    assert torch.equal(Thirds().thirds, VALUES.float())
    torch.set_default_dtype(torch.float64)
    assert torch.equal(Thirds().thirds, VALUES)


@pytest.mark.parametrize(
    "turn", [lambda m: m.double(), lambda m: m.to(torch.float64), lambda m: m.half().double()]
)
def test_double_after_float32_is_exact(turn):
    """A module built in float32 and turned into float64 computes with exact tables, nested or not."""
    assert torch.equal(turn(Thirds()).thirds, VALUES)
    nest = turn(Nest())
    assert torch.equal(nest.inner.thirds, VALUES)
    assert nest.inner.weight.dtype == torch.float64


def test_modules_within_a_module_with_tables_follow_it():
    """A module with tables may hold layers, as blocks of the network do."""
    outer = Thirds()
    outer.inner = Thirds()
    outer.double()
    assert torch.equal(outer.inner.thirds, VALUES)
    assert outer.inner.weight.dtype == torch.float64


def test_float_after_double_is_rounded():
    """Back in float32 the table is the rounded values."""
    assert torch.equal(Thirds().double().float().thirds, VALUES.float())


def test_copies_are_exact_too():
    """A deep copy, as moving averages make them, keeps exact values and stays independent."""
    original = Thirds()
    clone = copy.deepcopy(original).double()
    assert torch.equal(clone.thirds, VALUES)
    assert original.thirds.dtype == torch.float32


def test_state_dict_has_weights_only():
    """Nothing of a table is written to a checkpoint, and none is expected from one."""
    nest = Nest()
    assert list(nest.state_dict()) == ["inner.weight"]
    nest.load_state_dict({"inner.weight": torch.zeros(2)}, strict=True)
    assert torch.equal(nest.inner.thirds, VALUES.float())


def test_rounded_values_are_refused():
    """A table in float32 would be inexact after .double(), so it is an error."""
    with pytest.raises(ValueError, match=r"'thirds'.*torch\.float32; expected torch\.float64"):
        TableModule().register_table("thirds", VALUES.float())


def test_default_dtype_is_restored():
    """Within the block the default is the given dtype, afterwards what it was, after an error too."""
    with default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32
    with pytest.raises(KeyError), default_dtype(torch.float64):
        raise KeyError
    assert torch.get_default_dtype() == torch.float32
