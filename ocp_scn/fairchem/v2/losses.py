"""fairchem-core 2's losses, over what is labelled, and honest about what is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocp_scn.fairchem.finite import nan_unless_finite


class LabelledLoss(nn.Module):
    """The loss of a task, which has a gradient that is not finite where a prediction with a label is not.

    fairchem multiplies by 0 what has no label, which is NaN for the stress of a molecule, and then takes 0
    for the whole loss: a batch of slabs and molecules would not train the stress.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor, target: Tensor, mult_mask: Tensor, natoms: Tensor) -> Any:
        """Return the loss of predictions (N, C), with labels where ``mult_mask`` (N,) or (N, C) is true."""
        known = mult_mask.view(input.shape) if mult_mask.numel() == input.numel() else mult_mask[:, None]
        compared = torch.where(known, input, 0)
        return self.loss(compared, target, mult_mask=mult_mask, natoms=natoms) * nan_unless_finite(compared)
