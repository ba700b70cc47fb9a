"""SiLU of a tensor that nobody else has."""

from __future__ import annotations

import torch
from torch import Tensor

from ocp_scn import ops


def silu_of_own(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return SiLU(x + bias) of x (..., N) and bias (N,), in the place of x if no derivative will need it."""
    if torch.is_grad_enabled():
        return ops.bias_silu(x, bias)
    ops.bias_silu_(x, bias)
    return x
