"""The whole network as a backbone of fairchem-core 2."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fairchem.core.common import gp_utils
from fairchem.core.graph.radius_graph_pbc import radius_graph_pbc_v2
from fairchem.core.graph.radius_graph_pbc_nvidia import radius_graph_pbc_nvidia
from fairchem.core.models.base import BackboneInterface
from fairchem.core.models.uma.escn_md import GradRegressConfig
from omegaconf import OmegaConf
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.structures import place_fault
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.fairchem.v2.tasks import check_tasks, stress_tasks
from ocp_scn.state_dict import keep_own_names

# 1 is this package's, which chooses the neighbours that fairchem-core 1.10 does.
_SEARCHES = {1: None, 2: radius_graph_pbc_v2, 3: radius_graph_pbc_nvidia}


class SCNBackbone(BatchSCN, BackboneInterface):
    """SCN with its readouts as a backbone; heads select from its predictions.

    The readouts belong to the backbone, so both lines of fairchem have the same weights. Only the readouts
    that the settings need exist, since fairchem's data-parallel training requires that every weight is used.

    Args:
        radius_pbc_version: search of neighbours: 1 that of fairchem-core 1.10, 2 or 3 newer ones.
            They may choose differently among atoms at equal distances under ``max_num_neighbors``.
        trained_elements: atomic numbers of the training data, or None if unknown; predictions with others
            warn, or are refused with ``strict_elements``.
        settings: those of `ocp_scn.config.SCNConfig`; ``otf_graph`` is True here.

    Raises:
        InputError: for an unknown setting or a value that is not allowed.
    """

    def __init__(
        self,
        radius_pbc_version: int = 1,
        trained_elements: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        if radius_pbc_version not in _SEARCHES:
            raise InputError(f"model setting radius_pbc_version={radius_pbc_version!r}; expected 1, 2 or 3")
        plain: Any = OmegaConf.to_object(OmegaConf.create(settings))
        config = SCNConfig.from_settings({"otf_graph": True, **plain})
        if not config.otf_graph:
            raise InputError("model setting otf_graph=False; expected True: SCN builds its graphs itself")
        if radius_pbc_version == 3 and config.max_num_neighbors < 0:
            raise InputError(
                "model setting max_num_neighbors=-1; expected a number (radius_pbc_version=3 needs one)"
            )
        super().__init__(config)
        keep_own_names(self)
        if trained_elements is not None:
            self.known = KnownElements(trained_elements, strict=config.strict_elements)
        self.search = _SEARCHES[radius_pbc_version]
        # Read and changed by fairchem: a stress that was not trained is switched on here.
        self.regress_config = GradRegressConfig(
            direct_forces=config.direct_forces, forces=config.regress_forces, stress=config.regress_stress
        )

    @torch.compiler.disable
    def forward(self, data: Any) -> dict[str, Tensor]:
        """Return the predictions for the heads: ``energy`` (B,), ``forces`` (A, 3), ``stress`` (B, 3, 3).

        Raises:
            InputError: for structures that the model cannot compute, and with graph parallelism.
        """
        if gp_utils.initialized():
            raise InputError(
                "graph parallelism (several workers for one prediction, graph_parallel in training) is on; "
                "SCN computes each system in one process: set workers=1"
            )
        elements = data["atomic_numbers"].long()
        data["atomic_numbers_full"], data["batch_full"] = elements, data["batch"]  # for element references
        trained = any(weight.requires_grad for weight in self.parameters())
        return self.predict(
            data, stress=self.regress_config.stress, create_graph=trained and torch.is_grad_enabled()
        )

    @classmethod
    def build_inference_settings(cls, settings: Any) -> dict[str, Any]:
        """Switch off what SCN does not have; return the settings that inference changes: none.

        fairchem's default settings compile the model, and graphs that its calculator builds beforehand
        have a cutoff of their own.
        """
        for name in ("compile", "nitro", "merge_mole", "external_graph_gen"):
            if getattr(settings, name):
                logging.info(f"inference setting {name} is switched off: SCN runs without it")
                setattr(settings, name, False)
        return {}

    def get_default_untrained_tasks(self, checkpoint_tasks: Mapping[str, Any], settings: Any) -> list[Any]:
        """Return tasks for the stress, which gradient forces come with."""
        return [] if self.regress_config.direct_forces else stress_tasks(checkpoint_tasks, settings)

    def validate_tasks(self, dataset_to_tasks: Mapping[str, list[Any]]) -> None:
        """Check the tasks of each data set, see `check_tasks`."""
        check_tasks(dataset_to_tasks, direct_forces=self.regress_config.direct_forces)

    def prepare_for_inference(self, data: Any, settings: Any) -> SCNBackbone:
        """Return the backbone as it is."""
        return self

    def on_predict_check(self, data: Any) -> None:
        """Check nothing: the forward pass does."""

    def validate_atoms_data(self, atoms: Any, task_name: str) -> None:
        """Check places and cell before fairchem wraps and rounds them; the forward pass checks the rest.

        Raises:
            InputError: for what is not finite or far beyond float64's digits, and for atoms that are periodic
                along a direction without a cell vector or in a cell without a volume.
        """
        fault = place_fault(atoms)
        if fault is not None:
            raise InputError(fault)
