"""Published models at their published sizes, under short names."""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.common.registry import registry
from torch import Tensor, nn

import ocp_scn  # noqa: F401  # registers the model
from ocp_scn.allocator import keep_freed_memory

_MODELS = "fairchem.core.models"
GRAPH = {"otf_graph": True, "use_pbc": True, "use_pbc_single": True, "regress_forces": True}
SCN = {
    **GRAPH, "cutoff": 8.0, "max_num_neighbors": 40, "lmax": 6, "mmax": 1, "num_interactions": 12,
    "hidden_channels": 1024, "sphere_channels": 128, "sphere_channels_reduce": 128,
    "num_basis_functions": 128, "num_sphere_samples": 128, "basis_width_scalar": 2.0,
}  # fmt: skip
VARIANTS = {"t1-b1": {"num_taps": 1, "num_bands": 1}, "t4-b2": {"num_taps": 4, "num_bands": 2}}
BUILT_IN = f"{_MODELS}.scn.scn.SphericalChannelNetwork"
PEERS: dict[str, dict[str, Any]] = {
    "eSCN": {  # L = 6, M = 2, 12 layers, as published for OC20 2M
        "name": f"{_MODELS}.escn.escn.eSCN", **GRAPH, "num_layers": 12, "lmax_list": [6], "mmax_list": [2],
        "sphere_channels": 128, "hidden_channels": 256, "edge_channels": 128, "num_sphere_samples": 128,
        "cutoff": 12.0, "max_neighbors": 20, "basis_width_scalar": 2.0,
    },
    "EquiformerV2": {  # 83 M parameters, as published for OC20 2M
        "name": "hydra",
        "backbone": {
            "model": f"{_MODELS}.equiformer_v2.equiformer_v2.EquiformerV2Backbone", **GRAPH,
            "num_layers": 12, "lmax_list": [6], "mmax_list": [2], "sphere_channels": 128,
            "attn_hidden_channels": 64, "num_heads": 8, "attn_alpha_channels": 64, "attn_value_channels": 16,
            "ffn_hidden_channels": 128, "norm_type": "layer_norm_sh", "grid_resolution": 18,
            "edge_channels": 128, "num_distance_basis": 512, "max_radius": 12.0, "max_neighbors": 20,
            "attn_activation": "silu", "ffn_activation": "silu", "use_grid_mlp": True, "alpha_drop": 0.1,
            "drop_path_rate": 0.05, "weight_init": "uniform",
        },
        "heads": {
            "energy": {"module": f"{_MODELS}.equiformer_v2.heads.scalar.EqV2ScalarHead"},
            "forces": {"module": f"{_MODELS}.equiformer_v2.heads.vector.EqV2VectorHead"},
        },
    },
}  # fmt: skip


def build(name: str, **changes: Any) -> nn.Module:
    """Return a model with fixed initial weights; ours and fairchem's SCN get the same ones.

    Args:
        name: ``ours t1-b1``, ``fairchem t4-b2``, …, ``eSCN`` or ``EquiformerV2``.
        changes: other settings of our model.
    """
    torch.manual_seed(0)
    kind, _, variant = name.partition(" ")
    if kind in PEERS:
        settings = {**PEERS[kind]}
        return registry.get_model_class(settings.pop("name"))(**settings)
    keep_freed_memory()  # as in the processes of main.py
    settings = {**SCN, **VARIANTS[variant]}
    ours = registry.get_model_class("ocp_scn")(**{**settings, **changes})
    if kind == "ours":
        return ours
    model = registry.get_model_class(BUILT_IN)(**settings)
    model.load_state_dict(ours.state_dict())
    return model


def predict(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Return energies and forces, whatever layout the model gives them."""
    out = {key: value[key] if isinstance(value, dict) else value for key, value in model(batch).items()}
    return out["energy"].flatten(), out["forces"]


def train_step(model: nn.Module, batch: Any, *, keep_gradients: bool = False) -> None:
    """Compute a loss of energies and forces, and its gradients, in the memory of the last ones if wanted."""
    model.zero_grad(set_to_none=not keep_gradients)
    loss_of(*predict(model, batch)).backward()


def loss_of(energy: Tensor, forces: Tensor) -> Tensor:
    """Return a loss of energies (B,) and forces (A, 3)."""
    return energy.abs().sum() + forces.norm(dim=-1).sum()
