"""Features of an edge from its length and the elements at its ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, silu, threshold

from ocp_scn import ops
from ocp_scn.nn.activations import silu_of_own
from ocp_scn.nn.products import product, product_, product_dtype
from ocp_scn.nn.recompute import recomputed
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

    centres: Tensor

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
        difference = distance[:, None] - self.centres
        if self.function == "gaussian":
            exponent = difference.square() * (-0.5 / (self.spacing * self.width) ** 2)
            # Below 1e-30 values are 0: processors are many times slower with numbers below float32's range.
            return torch.exp(threshold(exponent, -69.0, -math.inf))
        u = difference * (self.width / self.spacing)
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
        weights = [self.source_embedding.weight, self.target_embedding.weight]
        weights += [self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias]
        return recomputed(_Features(source_element, target_element, product_dtype(radial)), radial, *weights)


class _Features(NamedTuple):
    """What `EdgeFeatures` computes, for edges between some elements."""

    source: Tensor
    target: Tensor
    dtype: torch.dtype  # of matrix products

    def forward(self, radial: Tensor, *weights: Tensor, keep: list[Tensor] | None = None) -> Tensor:
        of_source, of_target, w1, b1, w2, b2 = weights
        first = self._first(radial, of_source, of_target, w1)
        return silu_of_own(product(silu_of_own(first, b1), w2.to(self.dtype)), b2)

    def vjp(
        self, gradient: Tensor, kept: Sequence[Tensor], needed: Sequence[bool], /, *inputs: Tensor
    ) -> Sequence[Tensor | None]:
        radial, of_source, of_target, w1, b1, w2, b2 = inputs
        first = self._first(radial, of_source, of_target, w1)
        h, w1_, w2_ = ops.bias_silu(first, b1), w1.to(self.dtype), w2.to(self.dtype)
        of_second = ops.bias_silu_backward(gradient, product(h, w2_), b2)
        of_first = ops.bias_silu_backward(product(of_second, w2_.mT), first, b1)
        elements = of_first.to(of_source.dtype)
        return [
            product(of_first, w1_.mT).to(radial.dtype) if needed[0] else None,
            _embedding_vjp(elements, self.source, of_source),
            _embedding_vjp(elements, self.target, of_target),
            product(of_first.mT, radial.to(self.dtype).mT).to(w1.dtype),
            elements.sum(0).to(b1.dtype),
            product(of_second.mT, h.mT).to(w2.dtype),
            of_second.sum(0).to(b2.dtype),
        ]

    def _first(self, radial: Tensor, of_source: Tensor, of_target: Tensor, w1: Tensor) -> Tensor:
        elements = embedding(self.source, of_source) + embedding(self.target, of_target)
        radial, w1 = radial.to(self.dtype), w1.to(self.dtype)
        if torch.is_grad_enabled():
            return (product(radial, w1) + elements).to(self.dtype)
        if elements.dtype != self.dtype:
            return product(radial, w1).add_(elements)
        product_(elements, radial, w1, add=True)
        return elements


def _embedding_vjp(gradient: Tensor, which: Tensor, weight: Tensor) -> Tensor:
    """Return the derivative by an embedding's rows (Z, F) from that (E, F) by what was taken of them."""
    return torch.ops.aten.embedding_dense_backward(gradient, which, len(weight), -1, False)
