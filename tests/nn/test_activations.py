"""SiLU in the place of its argument, or not."""

import pytest
import torch
from torch.nn.functional import silu

from ocp_scn.nn.activations import silu_of_own


@pytest.mark.parametrize("biased", [True, False])
def test_silu_in_place_where_nothing_is_recorded(biased):
    """The numbers are the same; the argument is overwritten only if no derivative can need it."""
    x, bias = torch.randn(3, 5), torch.randn(5) if biased else None
    expected = silu(x + bias if biased else x)
    before = x.clone()
    torch.testing.assert_close(silu_of_own(x, bias), expected)
    assert torch.equal(x, before)
    with torch.no_grad():
        found = silu_of_own(x, bias)
    assert found is x
    torch.testing.assert_close(found, expected)
