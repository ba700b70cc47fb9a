"""fairchem-core 2's container of a backbone and heads, for SCN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairchem.core.models.base import HydraModel

from ocp_scn.errors import InputError
from ocp_scn.fairchem.scales import DERIVATIVES
from ocp_scn.fairchem.v2.heads import ForceHead
from ocp_scn.fairchem.v2.tasks import derivative_normalizer


class SCNModel(HydraModel):
    """fairchem's model with what it leaves to chance: weight decay, and normalizers of derivatives."""

    def __init__(self, *args: Any, supports_single_atoms: bool = True, **settings: Any) -> None:
        super().__init__(*args, supports_single_atoms=supports_single_atoms, **settings)
        config = self.backbone.config
        has_readout = config.regress_forces and config.direct_forces
        if has_readout and not any(isinstance(head, ForceHead) for head in self.output_heads.values()):
            raise InputError(
                "the backbone has a readout of forces that no head takes: add a ForceHead, or set "
                "regress_forces: False"
            )

    def no_weight_decay(self) -> list[str]:
        """Return the weights that are not decayed: biases and embeddings."""
        return [name for name, weight in self.named_parameters() if "embedding" in name or weight.ndim < 2]

    def add_tasks(self, tasks: Sequence[Any]) -> None:
        """Add tasks for prediction; untrained forces and stress get the energy's normalizer without its mean.

        fairchem gives them the energy's as it is, whose mean would be added to every component.
        """
        for task in tasks:
            if task.inference_only and task.property in DERIVATIVES:
                task.normalizer = derivative_normalizer(task.normalizer)
        super().add_tasks(tasks)
