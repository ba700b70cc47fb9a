"""Real spherical harmonics and the bookkeeping of their degrees and orders."""

from __future__ import annotations

import math
from functools import lru_cache

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
        (..., S) values in the order of `kept_orders`; S = (lmax + 1)**2 if ``mmax`` is None.
    """
    x, y, z = points.unsqueeze(-2).unbind(-1)
    return harmonics_in_rows(x, y, z, lmax, mmax).squeeze(-1)


def harmonics_in_rows(x: Tensor, y: Tensor, z: Tensor, lmax: int, mmax: int | None = None) -> Tensor:
    """Return `spherical_harmonics` of points x, y, z (..., P), harmonic by harmonic: (..., S, P)."""
    mmax = lmax if mmax is None else min(mmax, lmax)
    a, b, starts, column, azimuth, norm = _recurrence(lmax, mmax, y.dtype, y.device)
    x, y, z = x.unsqueeze(-2), y.unsqueeze(-2), z.unsqueeze(-2)  # (..., 1, P)
    polar_y = a * y.unsqueeze(-3)  # (..., L + 1, M + 1, P)
    polar_r = b * torch.addcmul(torch.addcmul(x * x, y, y), z, z).unsqueeze(-3)
    polar = [starts[0].expand(*y.shape[:-2], mmax + 1, y.shape[-1])]
    for degree in range(1, lmax + 1):
        upper = starts[degree]
        if degree > 1:
            upper = torch.addcmul(upper, polar_r.select(-3, degree), polar[-2])
        polar.append(torch.addcmul(upper, polar_y.select(-3, degree), polar[-1]))
    of_degrees = torch.cat(polar, dim=-2).index_select(-2, column)  # (..., S, P)
    if mmax == 0:
        return norm * of_degrees
    cosine, sine = z, x  # Re and Im of (z + i x)^m
    waves = [torch.ones_like(x), cosine, sine]
    for _ in range(1, mmax):
        cosine, sine = z * cosine - x * sine, z * sine + x * cosine
        waves += [cosine, sine]
    return norm * of_degrees * torch.cat(waves, dim=-2).index_select(-2, azimuth)


@lru_cache(maxsize=64)
def _recurrence(lmax: int, mmax: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Return the tables of the recurrence Q_lm = starts + a y Q_(l-1)m + b r^2 Q_(l-2)m.

    Its factors a, b and starts are (L + 1, M + 1, 1), degree by order. Then come where each harmonic finds
    its degree and order, and its wave, among those (S,), and its norm (S, 1).
    """
    with torch.inference_mode(False):  # what is made in it cannot be saved for a backward pass
        a, b, starts = torch.zeros(3, lmax + 1, mmax + 1, 1, dtype=torch.float64)
        for m in range(mmax + 1):
            starts[m, m] = math.prod(range(1, 2 * m, 2))
            for degree in range(m + 1, lmax + 1):
                a[degree, m] = (2 * degree - 1) / (degree - m)
                b[degree, m] = -(degree + m - 1) / (degree - m)
        orders = kept_orders(lmax, mmax)
        column = torch.tensor([degree * (mmax + 1) + abs(m) for degree, m in orders])
        azimuth = torch.tensor([0 if m == 0 else 2 * abs(m) - (m > 0) for _, m in orders])
        norm = torch.tensor([[_norm(degree, abs(m))] for degree, m in orders], dtype=torch.float64)
        floats = (table.to(device, dtype) for table in (a, b, starts))
        return *floats, column.to(device), azimuth.to(device), norm.to(device, dtype)


def _norm(degree: int, m: int) -> float:
    """Return the factor that makes the harmonic of degree l and order +-m orthonormal."""
    both_signs = 1.0 if m == 0 else 2.0
    ratio = math.factorial(degree - m) / math.factorial(degree + m)
    return math.sqrt((2 * degree + 1) / (4 * math.pi) * both_signs * ratio)
