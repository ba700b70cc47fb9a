"""Matrix products by the library that is faster on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

# Numbers in the matrix b from which on the other library is worth its call.
MIN_VALUES = 2**15


def input_major(layer: nn.Linear) -> nn.Linear:
    """Have a linear layer's weight (out, in) lie in memory input by input, and return the layer.

    The numbers stay the same. Some inputs' part of the weight is then one range of memory, and oneDNN is
    spared rows that are a power of two apart, of which a processor's caches hold few at a time: with 1,024
    inputs a product is a third faster.
    """
    layer.weight.data = layer.weight.data.mT.contiguous().mT
    return layer


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b.mT, as a linear layer does.

    torch takes MKL for float32, whose code for AVX-512 is for Intel's processors only. oneDNN's, which
    torch brings too, goes by what a processor can do. torch knows no derivative of it, so it is used
    where none is recorded; ``torch.backends.mkldnn.flags(enabled=False)`` switches it off.

    Args:
        a: (M, K).
        b: (N, K).

    Returns:
        (M, N).
    """
    return _by_onednn(a, b) if _takes_onednn(a, b) else torch.mm(a, b.mT)


def product_(out: Tensor, a: Tensor, b: Tensor, *, add: bool) -> None:
    """Overwrite ``out`` (M, N) by `product`, or add that to it; no derivative is recorded."""
    if out.dtype != a.dtype or _takes_onednn(a, b):
        found = product(a, b)
        out.add_(found) if add else out.copy_(found)
    elif add:
        torch.addmm(out, a, b.mT, out=out)
    else:
        torch.mm(a, b.mT, out=out)


def plus_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Return total + `product` in the total's memory; the product itself if there is no total yet."""
    if total is None:
        return product(a, b)
    product_(total, a, b, add=True)
    return total


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of the network's matrix products: autocast's where that is on, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Have torch compute products of float32 with this precision within the block.

    Args:
        precision: of ``torch.set_float32_matmul_precision``; "high" is TF32 on GPUs that have it.
    """
    before = torch.get_float32_matmul_precision()
    if precision == before:
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    if not (b.is_contiguous() or b.mT.is_contiguous()):
        b = b.contiguous()  # oneDNN has no fast code for a part of a matrix
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def large_products_pay(x: Tensor) -> bool:
    """Whether one product for many matrices like x is faster than one for each, as it is with oneDNN."""
    if x.device.type != "cpu" or x.numel() < MIN_VALUES:
        return False
    return x.dtype == torch.bfloat16 or _prefers_onednn(x)


def _takes_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        _prefers_onednn(a)
        and b.dtype == torch.float32
        and b.numel() >= MIN_VALUES
        and a.shape[0] > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        # torch.compile takes an addition into the product, and then only weights that it may fold in.
        and not torch.compiler.is_compiling()
    )


def _prefers_onednn(x: Tensor) -> bool:
    return (
        _onednn_is_faster()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
    )


@torch.compiler.assume_constant_result
def _onednn_is_faster() -> bool:
    """Whether this processor has AVX-512 and is none that MKL uses it on."""
    return _has_avx512_without_mkl()


@cache
def _has_avx512_without_mkl() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
