"""Heads of fairchem-core 2: what the backbone predicts, under the names that its trainer reads."""

from __future__ import annotations

from typing import Any

import torch
from fairchem.core.models.base import HeadInterface
from torch import Tensor, nn

from ocp_scn.errors import InputError

Prediction = dict[str, Tensor]


class EnergyHead(nn.Module, HeadInterface):
    """The energy; the head bears the name of its task."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()

    def forward(self, data: Any, emb: Prediction) -> Prediction:
        """Return ``energy`` (B,)."""
        return {"energy": emb["energy"]}


class ForceHead(nn.Module, HeadInterface):
    """Forces from a readout of their own; the head bears the name of its task."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        config = backbone.config
        if not (config.regress_forces and config.direct_forces):
            raise InputError(
                f"ForceHead on a backbone with regress_forces={config.regress_forces}, "
                f"direct_forces={config.direct_forces}; expected True and True, or ConservativeHead"
            )

    def forward(self, data: Any, emb: Prediction) -> Prediction:
        """Return ``forces`` (A, 3)."""
        return {"forces": emb["forces"].to(emb["energy"])}


class ConservativeHead(nn.Module, HeadInterface):
    """Energy, and forces and stress that are its derivatives.

    The model's ``pass_through_head_outputs`` has to be True. Tasks are named PREFIX_energy,
    PREFIX_forces and PREFIX_stress, which are the names that fairchem gives to untrained ones.

    Args:
        backbone: an `SCNBackbone` with ``direct_forces=False``.
        prefix: name of the data set; without, the tasks are energy, forces and stress.
    """

    def __init__(self, backbone: Any, prefix: str | None = None) -> None:
        super().__init__()
        if backbone.config.direct_forces:
            raise InputError("ConservativeHead on a backbone with direct_forces=True; expected False")
        self.prefix = f"{prefix}_" if prefix else ""

    def forward(self, data: Any, emb: Prediction) -> dict[str, Prediction]:
        """Return, by task, ``energy`` (B,), ``forces`` (A, 3) and, where asked for, ``stress`` (B, 9).

        The stress of a system without periodicity is NaN: its cell is a stand-in.
        """
        found = {name: emb[name] for name in ("energy", "forces")}
        if "stress" in emb:
            periodic = data["pbc"].reshape(-1, 3).any(dim=1)[:, None]
            found["stress"] = emb["stress"].flatten(1).where(periodic, torch.nan)
        return {self.prefix + name: {name: value} for name, value in found.items()}
