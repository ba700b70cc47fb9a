"""Features of an edge from its length and the elements at its ends."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, threshold

from ocp_scn.nn.activations import silu, silu_of_own
from ocp_scn.nn.recompute import linear, recomputed
from ocp_scn.sphere import TableModule


class RadialBasis(TableModule):
    """Expand distances in basis functions centred evenly on [0, cutoff].

    With u = (r - centre) / spacing and the width w: ``gaussian`` exp(-(u / w)^2 / 2), ``sigmoid``
    sigmoid(w u), ``linearsigmoid`` sigmoid(w u) + 0.001 w u; ``silu`` is SiLU of a learned affine
    map of r instead.

    Args:
        function: one of the four names.
        num_radial: number of functions R, at least 2.
        cutoff: last centre, Å.
        width: ``basis_width_scalar``.
    """

    def __init__(self, function: str, num_radial: int, cutoff: float, width: float) -> None:
        super().__init__()
        self.function = function
        self.spacing = cutoff / (num_radial - 1)
        self.width = width
        if function == "silu":
            # The second input is the constant 1; with the layer's bias it doubles the offset,
            # which published weights contain.
            self.fc1 = nn.Linear(2, num_radial)
        else:
            self.register_table("centres", torch.linspace(0, cutoff, num_radial, dtype=torch.float64))

    def forward(self, distance: Tensor) -> Tensor:
        """Return (E, R) basis values of the lengths (E,), Å."""
        if self.function == "silu":
            return silu(self.fc1(torch.stack([distance, torch.ones_like(distance)], dim=-1)))
        u = (distance[:, None] - self.centres) / self.spacing
        if self.function == "gaussian":
            # Below 1e-30 values are 0: processors are many times slower with numbers below float32's range.
            return torch.exp(threshold(-0.5 * (u / self.width).square(), -69.0, -math.inf))
        u = u * self.width
        return torch.sigmoid(u) + 0.001 * u if self.function == "linearsigmoid" else torch.sigmoid(u)


def polynomial_envelope(distance: Tensor, cutoff: float) -> Tensor:
    """Return factors that fall from 1 at distance 0 to 0 at the cutoff, with two derivatives 0 there.

    1 - 28 u^6 + 48 u^7 - 21 u^8 of u = r / cutoff, 0 beyond (J. Gasteiger, J. Gross and
    S. Guennemann, ICLR 2020, equation 8 with p = 6).

    Args:
        distance: (E,) lengths, Å.
        cutoff: Å.
    """
    u = (distance / cutoff).clamp(max=1)
    return 1 - u**6 * (28 - 48 * u + 21 * u * u)


class EdgeFeatures(nn.Module):
    """e = SiLU(W2 SiLU(W1 RBF(r) + B_source[Z_source] + B_target[Z_target])).

    Args:
        num_radial: R, radial basis functions.
        num_features: F, width of the features.
        max_num_elements: rows of the element embeddings.
    """

    def __init__(self, num_radial: int, num_features: int, max_num_elements: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_radial, num_features)
        self.source_embedding = nn.Embedding(max_num_elements, num_features)
        self.target_embedding = nn.Embedding(max_num_elements, num_features)
        for of_element in (self.source_embedding, self.target_embedding):
            nn.init.uniform_(of_element.weight, -0.001, 0.001)
        self.fc2 = nn.Linear(num_features, num_features)

    def forward(self, radial: Tensor, source_element: Tensor, target_element: Tensor) -> Tensor:
        """Return (E, F) features from basis values (E, R) and the ends' atomic numbers (E,)."""

        def features(radial: Tensor, *weights: Tensor) -> Tensor:
            of_source, of_target, w1, b1, w2, b2 = weights
            elements = embedding(source_element, of_source) + embedding(target_element, of_target)
            return silu_of_own(linear(silu_of_own(linear(radial, w1) + elements, b1), w2), b2)

        weights = [self.source_embedding.weight, self.target_embedding.weight]
        weights += [self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias]
        return recomputed(features, radial, *weights)
