"""Tensors as the kernels take them: checked, and as addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ocp_scn.kernels.library import PRECISIONS


class Row(NamedTuple):
    """Where one coefficient that an edge frame keeps lies among the rows (C numbers) of an edge.

    Attributes:
        part: number of the tensor.
        row: number of the row there.
        twin: number of another row there with the same times ``sign``; -1 if there is none.
        sign: 1 or -1.
    """

    part: int
    row: int
    twin: int = -1
    sign: float = 1.0


class Layout(NamedTuple):
    """How tensors of edges hold the coefficients that edge frames keep.

    Attributes:
        sizes: rows that each tensor, a part, has of an edge.
        rows: where each kept coefficient lies, in the order of :func:`~ocp_scn.sphere.kept_orders`.
    """

    sizes: tuple[int, ...]
    rows: tuple[Row, ...]


def check(t: Tensor, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> None:
    """Raise ``ValueError`` for a tensor that is not contiguous, of this shape and dtype; None for any."""
    shape, dtype = t.shape if shape is None else shape, dtype or t.dtype
    if not t.is_contiguous() or t.shape != shape or t.dtype != dtype:
        got = f"{tuple(t.shape)} {t.dtype} with strides {t.stride()}"
        raise ValueError(f"a tensor is {got}; expected {tuple(shape)} {dtype}, contiguous")


def precision(t: Tensor) -> int:
    """Return 0 for float32 and 1 for bfloat16; raise ``ValueError`` for others and those elsewhere."""
    if t.dtype not in PRECISIONS or not t.is_cpu:
        raise ValueError(f"a tensor is {t.dtype} on {t.device}; expected float32 or bfloat16 on a processor")
    return int(t.dtype == torch.bfloat16)


class _Row(ctypes.Structure):
    _fields_ = (
        ("part", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("twin", ctypes.c_int64),
        ("sign", ctypes.c_float),
    )


@lru_cache(maxsize=64)
def _table(layout: Layout) -> tuple[Any, Any]:
    """Return a layout's sizes and rows as the kernels read them."""
    for part, *rows, _ in layout.rows:
        if not 0 <= part < len(layout.sizes) or not -1 <= min(rows) <= max(rows) < layout.sizes[part]:
            raise ValueError(f"row {rows} of part {part} is outside of the sizes {layout.sizes}")
    sizes = (ctypes.c_int64 * len(layout.sizes))(*layout.sizes)
    return sizes, (_Row * len(layout.rows))(*(_Row(*row) for row in layout.rows))


def addressed(parts: Sequence[Tensor], layout: Layout, num_edges: int, channels: int) -> tuple[Any, ...]:
    """Return the parts' :func:`precision`, and the addresses of parts and layout; all checked."""
    for part, size in zip(parts, layout.sizes, strict=True):
        check(part, (num_edges, size, channels), parts[0].dtype)
    addresses = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
    return precision(parts[0]), addresses, *_table(layout)
