"""Matrix products by either library."""

import pytest
import torch

from ocp_scn.nn import products
from ocp_scn.nn.products import (
    MIN_VALUES,
    input_major,
    large_products_pay,
    plus_product,
    product,
    product_,
    product_dtype,
)

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def onednn(monkeypatch):
    """Have every float32 product computed by oneDNN, and return the shapes of those that were."""
    shapes, compute = [], products._by_onednn

    def noted(a, b):
        shapes.append((*a.shape, len(b)))
        return compute(a, b)

    monkeypatch.setattr(products, "MIN_VALUES", 0)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_by_onednn", noted)
    return shapes


def factors(dtype=torch.float32):
    """Yield (30, 20) and (40, 20) in the layouts that the network has: whole, transposed, parts."""
    random = torch.Generator().manual_seed(0)
    a, b, wide = (
        torch.randn(*shape, generator=random, dtype=dtype) for shape in ((30, 20), (40, 20), (60, 60))
    )
    yield a, b
    yield a.mT.contiguous().mT, b.mT.contiguous().mT
    yield a, wide[10:50, 20:40]
    yield wide[5:35, 10:30], b


@needs_onednn
@pytest.mark.parametrize("library", ["MKL", "oneDNN"])
def test_products(library, request):
    """Values are right to float32's digits in every layout."""
    if library == "oneDNN":
        shapes = request.getfixturevalue("onednn")
    with torch.no_grad():
        for a, b in factors():
            exact = (a.double() @ b.double().mT).float()
            torch.testing.assert_close(product(a, b), exact, rtol=0, atol=1e-5)
    if library == "oneDNN":
        assert shapes == [(30, 20, 40)] * 4


def test_input_major():
    """A layer keeps its numbers and its kind of parameter; a range of inputs is a range of memory."""
    layer = torch.nn.Linear(6, 4)
    before = layer.weight.clone()
    assert input_major(layer) is layer
    assert isinstance(layer.weight, torch.nn.Parameter)
    torch.testing.assert_close(layer.weight, before, rtol=0, atol=0)
    assert layer.weight[:, 2:4].mT.is_contiguous()


@needs_onednn
def test_where_onednn_is_not_taken(onednn):
    """Other precisions, empty products, recorded derivatives and torch's switch leave it to torch."""
    a, b = next(factors())
    x = a.clone().requires_grad_()
    product(x, b).sum().backward()
    torch.testing.assert_close(x.grad, b.sum(0).expand(30, 20))
    with torch.no_grad():
        assert product(*next(factors(torch.float64))).dtype == torch.float64
        assert product(a[:0], b).shape == (0, 40)
        with torch.autocast("cpu", torch.bfloat16):
            assert product(a, b).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            product(a, b)
        assert not onednn
        product(a, b)
        assert onednn


def test_where_large_products_pay(monkeypatch):
    """With oneDNN's products in float32, and in mixed precision; not for few numbers."""
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    x = torch.zeros(products.MIN_VALUES)
    assert large_products_pay(x)
    assert not large_products_pay(x[:-1])
    assert not large_products_pay(x.double())
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    assert not large_products_pay(x)
    assert large_products_pay(x.bfloat16())


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [("AVX512", "AuthenticAMD", True), ("AVX512", "GenuineIntel", False), ("AVX2", "AuthenticAMD", False)],
)
def test_onednn_is_for_amds_processors_with_avx512(monkeypatch, capability, processor, expected):
    """MKL has fast code for Intel's, and oneDNN is no faster without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products.Path, "read_text", lambda path: f"{path}: vendor_id : {processor}")
    faster = products._has_avx512_without_mkl.__wrapped__
    assert faster() is expected
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not faster()


@pytest.mark.parametrize("library", ["torch", "oneDNN"])
def test_products_in_place(library, request):
    """A product replaces what is there or is added to it, in the precision of what is there."""
    if library == "oneDNN":
        request.getfixturevalue("onednn")
    with torch.no_grad():
        a, b = next(factors())
        exact = product(a, b)
        whole = torch.ones(30, 80)
        product_(whole[:, 40:], a, b, add=False)
        product_(whole[:, :40], a, b, add=True)
        torch.testing.assert_close(whole, torch.cat([exact + 1, exact], dim=1))
        total = plus_product(None, a, b)
        assert plus_product(total, a, b) is total
        torch.testing.assert_close(total, 2 * exact)
        product_(total, a.bfloat16(), b.bfloat16(), add=False)
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, exact, rtol=0, atol=0.1)


def test_precision_of_products():
    """It is that of the signals, or autocast's."""
    assert product_dtype(torch.zeros(1, dtype=torch.float64)) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(torch.zeros(1)) == torch.bfloat16
    assert product_dtype(torch.zeros(1)) == torch.float32


@torch.no_grad()
def test_compiled_products_of_large_matrices():
    """An addition after a product by oneDNN is no hindrance."""
    a, b, c = torch.randn(40, 300), torch.randn(500, 300), torch.randn(40, 500)
    assert b.numel() >= MIN_VALUES
    compiled = torch.compile(lambda a, b, c: product(a, b) + c, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(a, b, c), a @ b.mT + c, rtol=1e-4, atol=1e-4)
