"""TF32 for products of float32: switched on for a block, and for the backward pass of what it computed."""

import torch

from ocp_scn import SCN, SCNConfig
from ocp_scn.nn.products import float32_products
from ocp_scn.nn.recompute import recomputed


def test_precision_of_a_block():
    """torch's setting changes within, and comes back after an error too."""
    assert torch.get_float32_matmul_precision() == "highest"
    try:
        with float32_products("high"):
            assert torch.get_float32_matmul_precision() == "high"
            raise KeyError  # noqa: TRY301
    except KeyError:
        pass
    assert torch.get_float32_matmul_precision() == "highest"


def test_precision_of_the_backward_pass():
    """It is that of the forward pass."""
    seen = []

    class Step:
        def forward(self, x, keep=None):
            return x * 2

        def vjp(self, gradient, kept, needed, x):
            seen.append(torch.get_float32_matmul_precision())
            return [gradient * 2]

    x = torch.ones(3, requires_grad=True)
    with float32_products("high"):
        value = recomputed(Step(), x)
    value.sum().backward()
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_tf32_is_for_gpus():
    """On a CPU nothing is switched on, where torch might take bfloat16 for it."""
    model = SCN(SCNConfig(lmax=1, num_interactions=1, compute_dtype="tf32"))
    with model._precision("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"
    with model._precision("cuda"):
        assert torch.get_float32_matmul_precision() == "high"
