"""Sums over edges and atoms in a fixed order."""

import pytest
import torch

from ocp_scn.ops.sums import segment_sum, sum_at_atoms

ATOMS = 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9,), (9, 4)])
def test_segments(shape, dtype):
    """Each segment has the sum of its values; an empty one has zero, at either end too."""
    values, segment = torch.randn(shape, dtype=dtype), torch.tensor([1, 1, 1, 2, 4, 4, 4, 4, 4])
    expected = torch.zeros(7, *shape[1:], dtype=dtype).index_add_(0, segment, values)
    torch.testing.assert_close(segment_sum(values, segment, 7), expected)
    assert torch.equal(segment_sum(values[:0], segment[:0], 2), torch.zeros(2, *shape[1:], dtype=dtype))


def test_derivatives_of_segments():
    """First and second derivatives are those of a sum."""
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    segment = torch.tensor([0, 0, 2, 2, 2, 3])
    assert torch.autograd.gradcheck(lambda x: segment_sum(x, segment, 4).sin(), values)
    assert torch.autograd.gradgradcheck(lambda x: segment_sum(x, segment, 4).sin(), values)


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_at_atoms(ends, dtype):
    """Each atom has the sum of what the edges have for it."""
    values, atom = torch.randn(11, ends, 3, dtype=dtype), torch.randint(ATOMS - 1, (11, ends))
    expected = torch.zeros(ATOMS, 3, dtype=dtype).index_add_(0, atom.flatten(), values.flatten(0, 1))
    torch.testing.assert_close(sum_at_atoms(values, atom, ATOMS), expected)
    assert torch.equal(sum_at_atoms(values[:0], atom[:0], ATOMS), torch.zeros(ATOMS, 3, dtype=dtype))


def test_derivatives_of_sums_at_atoms():
    """First and second derivatives are those of a sum."""
    values = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    atom = torch.randint(ATOMS, (4, 2))
    assert torch.autograd.gradcheck(lambda x: sum_at_atoms(x, atom, ATOMS).sin(), values)
    assert torch.autograd.gradgradcheck(lambda x: sum_at_atoms(x, atom, ATOMS).sin(), values)
