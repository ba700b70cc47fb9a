"""Errors of each precision, on a small model."""

import pytest
import torch

from benchmarks.errors import (
    ENERGY,
    FORCES,
    PRECISIONS,
    PUBLISHED,
    RMSD,
    AsOnGPU,
    errors,
    main,
    to_tf32,
    trained_like,
)
from benchmarks.structures import slabs


def test_tf32_has_ten_bits():
    """Numbers are rounded to the nearest one with 10 bits after the point, halves to even."""
    steps = torch.tensor([0.0, 0.49, 0.5, 0.51, 1.0, 1.5])
    found = to_tf32(1 + steps * 2.0**-10)
    assert ((found - 1) * 2**10).tolist() == [0, 0, 0, 1, 1, 2]
    assert torch.equal(to_tf32(-found), -found)


SMALL = {"num_interactions": 2, "sphere_channels": 16, "sphere_channels_reduce": 16, "hidden_channels": 32}


def test_products_of_float16_are_those_of_torch():
    """But for the order of sums; with and without memory for the result."""
    torch.manual_seed(0)
    a, b = torch.randn(20, 30).half(), torch.randn(30, 40).half()
    total = torch.randn(20, 40).half()
    expected = [a @ b, torch.addmm(total, a, b)]
    with AsOnGPU():
        found = [a @ b, torch.addmm(total, a, b, out=total)]
    assert found[1] is total
    for value, of_torch in zip(found, expected, strict=True):
        torch.testing.assert_close(value, of_torch, rtol=2e-3, atol=2e-3)


def test_every_product_of_float32_is_rounded():
    """Those that write into memory, too."""
    torch.manual_seed(0)
    a, b = torch.randn(20, 30), torch.randn(30, 40)
    expected, out = to_tf32(a) @ to_tf32(b), torch.empty(20, 40)
    with AsOnGPU():
        found = [a @ b, torch.mm(a, b, out=out), torch.addmm(torch.zeros(20, 40), a, b)]
    assert all(torch.equal(value, expected) for value in found)


def test_errors_grow_with_rounding():
    """float32 is nearest to float64, then TF32, then bfloat16; float16 has TF32's bits."""
    model = trained_like("t1-b1", **SMALL)
    found = {r["precision"]: r for r in errors("t1-b1", model, (RMSD, RMSD), num_systems=1)}
    assert list(found) == list(PRECISIONS)
    of_force = {name: record["of_mean_force"] for name, record in found.items()}
    assert of_force["float32"] == pytest.approx(0, abs=1e-4)
    assert 10 * of_force["float32"] < of_force["tf32"] < of_force["bfloat16"]
    assert of_force["tf32"] < 10 * of_force["float16"] < 10 * of_force["bfloat16"]
    for record in found.values():
        assert record["energy"] == pytest.approx(38 * record["energy_per_atom"])
        assert record["forces"] == pytest.approx(PUBLISHED["t1-b1"][1] * record["of_force_mae"])


def test_sizes_are_those_of_oc20():
    """Random weights predict energies and forces as trained ones do."""
    with torch.no_grad():
        found = trained_like("t4-b2", **SMALL)(slabs(38))
    assert RMSD * found["energy"].abs().item() == pytest.approx(ENERGY, rel=1e-4)
    assert RMSD * found["forces"].norm(dim=1).mean().item() == pytest.approx(FORCES, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--systems", "0"], "--systems 0; expected at least 1"),
        (["--checkpoint", "none.pt"], "--checkpoint none.pt does not exist"),
    ],
)
def test_refusals(words, message, capsys):
    """One line, and status 2."""
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
