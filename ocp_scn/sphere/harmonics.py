"""Real spherical harmonics and the bookkeeping of their degrees and orders."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kept_orders(lmax: int, mmax: int) -> list[tuple[int, int]]:
    """Return the pairs (degree l, order m) with |m| <= mmax, in the order of a kept signal.

    Degrees run 0..lmax (inclusive), within a degree m = -min(l, mmax)..min(l, mmax).
    """
    return [
        (degree, order)
        for degree in range(lmax + 1)
        for order in range(-min(degree, mmax), min(degree, mmax) + 1)
    ]


def num_coefficients(lmax: int, mmax: int | None = None) -> int:
    """Return the number of coefficients up to degree ``lmax`` with |m| <= ``mmax`` (all if None)."""
    return len(kept_orders(lmax, lmax if mmax is None else mmax))


def spherical_harmonics(points: Tensor, lmax: int, mmax: int | None = None) -> Tensor:
    """Evaluate the real spherical harmonics, as homogeneous polynomials of degree l.

    On unit vectors they are orthonormal on the sphere (e3nn's ``integral`` normalisation); on
    a vector of length r the values of degree l carry a factor r**l. The polar axis is +y and
    the azimuth runs from +z to +x, so the components of degree 1 are (x, y, z).

    Written as N_lm Q_lm(y, r^2) times the real or imaginary part of (z + i x)^|m|, with
    Q_mm = (2m - 1)!! and (l - m) Q_lm = (2l - 1) y Q_(l-1)m - (l + m - 1) r^2 Q_(l-2)m, which is
    the recurrence of the associated Legendre functions with sin(polar angle)^m taken out
    (https://dlmf.nist.gov/14.10.E3). No angle and no division by a coordinate occurs, so
    derivatives of any order are finite everywhere.

    Args:
        points: (..., 3) Cartesian vectors (x, y, z).
        lmax: largest degree, inclusive, >= 0.
        mmax: largest kept |order|, inclusive; None keeps all orders.

    Returns:
        (..., S) values in the order of :func:`kept_orders`; S = (lmax + 1)**2 if ``mmax`` is None.
    """
    mmax = lmax if mmax is None else min(mmax, lmax)
    x, y, z = points.unbind(-1)
    r2 = x * x + y * y + z * z

    values: dict[tuple[int, int], Tensor] = {}
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # Re and Im of (z + i x)^m
    for m in range(mmax + 1):
        for degree, polar in _legendre(y, r2, lmax, m):
            norm = _norm(degree, m)
            values[degree, m] = norm * polar * cosine
            if m > 0:
                values[degree, -m] = norm * polar * sine
        cosine, sine = z * cosine - x * sine, z * sine + x * cosine
    return torch.stack([values[pair] for pair in kept_orders(lmax, mmax)], dim=-1)


def _legendre(y: Tensor, r2: Tensor, lmax: int, m: int) -> list[tuple[int, Tensor]]:
    """Return (degree, Q_lm(y, r^2)) for the degrees m..lmax."""
    previous, current = torch.zeros_like(y), torch.full_like(y, math.prod(range(1, 2 * m, 2)))
    result = [(m, current)]
    for degree in range(m + 1, lmax + 1):
        following = (2 * degree - 1) * y * current - (degree + m - 1) * r2 * previous
        previous, current = current, following / (degree - m)
        result.append((degree, current))
    return result


def _norm(degree: int, m: int) -> float:
    """Return the factor that makes the harmonic of degree l and order +-m orthonormal."""
    both_signs = 1.0 if m == 0 else 2.0
    ratio = math.factorial(degree - m) / math.factorial(degree + m)
    return math.sqrt((2 * degree + 1) / (4 * math.pi) * both_signs * ratio)
