"""Matrix products by the library that is faster on this processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Numbers in the matrix b from which on the other library is worth its call.
MIN_VALUES = 2**15


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """Return a @ b.mT + bias, as a linear layer does.

    torch takes MKL for float32, whose code for AVX-512 is for Intel's processors only. oneDNN's, which
    torch brings too, goes by what a processor can do. torch knows no derivative of it, so it is used
    where none is recorded; ``torch.backends.mkldnn.flags(enabled=False)`` switches it off.

    Args:
        a: (M, K).
        b: (N, K).
        bias: (N,), or None for zero.
        out: (M, N) tensor to write to, or None for a new one; without a bias.

    Returns:
        (M, N).
    """
    if _takes_onednn(a, b):
        values = _by_onednn(a, b, bias)
        return values if out is None else out.copy_(values)
    return torch.mm(a, b.mT, out=out) if bias is None else torch.addmm(bias, a, b.mT)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b.mT to ``total`` (M, N), in place; see :func:`product`."""
    if _takes_onednn(a, b):
        total += _by_onednn(a, b, None)
    else:
        total.addmm_(a, b.mT)


def _by_onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    if not (b.is_contiguous() or b.mT.is_contiguous()):
        b = b.contiguous()  # oneDNN has no fast code for a part of a matrix
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


def _takes_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and b.numel() >= MIN_VALUES
        and len(a) > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
    )


@cache
def _onednn_is_faster() -> bool:
    """Whether this processor has AVX-512 and is none that MKL uses it on."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
