"""Weights with which a network's neighbours and non-linearities matter."""

import torch
from torch import nn


def strengthen(model: nn.Module) -> nn.Module:
    """Multiply a new model's matrices by 3, so that forces are of the order of their summands."""
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if "fc" in name and p.ndim == 2):
            parameter.mul_(3)
    return model
