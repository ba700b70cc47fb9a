"""Data sets of which only some structures are labelled: the others take no part in losses and metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from fairchem.core.datasets import data_list_collater
from fairchem.core.modules.evaluator import Evaluator
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.finite import LARGEST_LABEL, check_label, nan_unless_finite
from ocp_scn.fairchem.memory import is_out_of_memory
from ocp_scn.fairchem.v1.results import WholeResultsTrainer

LABELS = ("energy", "forces", "stress")


def collate(samples: Sequence[Data], *, targets: Collection[str], otf_graph: bool) -> Batch:
    """Return fairchem's batch of samples, with NaN for each of the ``targets`` that a sample lacks.

    Raises:
        InputError: for a label that is not finite, which would count as none, or too large for any structure.
    """
    filled = list(samples)
    for name in [name for name in LABELS if name in targets]:
        known = [sample[name] for sample in samples if name in sample]
        if not all(map(_is_label, known)):
            for sample in samples:
                check_label(f"system {sample.get('sid', '?')}", name, sample.get(name, 0))
        if len(known) == len(samples):
            continue
        for number, sample in enumerate(filled):
            if name not in sample:
                filled[number] = copy.copy(sample)
                filled[number][name] = _nothing(name, int(sample.natoms), known[0] if known else None)
    try:
        return data_list_collater(filled, otf_graph=otf_graph)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        names = ", ".join(str(sample.get("sid", "?")) for sample in samples)
        raise InputError(f"systems {names} cannot be batched: {cause(error)}") from error


def _is_label(value: Any) -> bool:
    try:
        return bool((torch.as_tensor(value).abs() <= LARGEST_LABEL).all())  # NaN is not at most the largest
    except (TypeError, ValueError, RuntimeError):  # a text, say
        return False


def _nothing(name: str, natoms: int, example: Any) -> Any:
    """Return NaN in the shape of a label, that of an ``example`` if there is one."""
    if name == "forces":
        return torch.full((natoms, 3), math.nan)
    if isinstance(example, Tensor):
        return torch.full_like(example, math.nan)
    return math.nan if name == "energy" else torch.full((1, 3, 3), math.nan)


class LabelledLoss(nn.Module):
    """One of fairchem's losses, over the rows of predictions that have a target."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor, target: Tensor, natoms: Tensor) -> Tensor:
        """Return the loss of rows whose target is not NaN; 0 where no rank has one.

        NaN where a prediction that is compared is not finite.

        Args:
            input: (N, C) predictions of systems or atoms.
            target: (N, C).
            natoms: (B,) atoms of each system, for losses of systems.
        """
        known = ~target.isnan().any(dim=1)
        if known.all():
            return self.loss(input, target, natoms=natoms) * nan_unless_finite(input)
        compared = input[known]
        loss = self.loss(
            compared, target[known], natoms=natoms[known] if len(natoms) == len(known) else natoms
        )
        loss = loss * nan_unless_finite(compared)
        return loss if known.any() or loss.isfinite() else compared.sum()


class LabelledEvaluator(Evaluator):
    """fairchem's evaluator, each of whose metrics is that of the systems with the labels that it compares."""

    def eval(
        self, prediction: dict[str, Tensor], target: dict[str, Tensor], prev_metrics: Any = None
    ) -> dict[str, Any]:
        """Return the metrics, added to those before; NaN as long as no system has the labels."""
        metrics = prev_metrics or {}
        for name, functions in self.target_metrics.items():
            for function in functions:
                compared = [label for label in LABELS if label == name or label in function]
                known = _labelled(target, [label for label in compared if label in target])
                if known.any():
                    both = (_rows(values, target, known) for values in (prediction, target))
                    metrics = Evaluator(eval_metrics={name: [function]}).eval(*both, metrics)
                else:
                    own = function if name in function or name == "misc" else f"{name}_{function}"
                    metrics.setdefault(own, {"metric": math.nan, "total": 0, "numel": 0})
        return metrics


def _systems_of_forces(target: Mapping[str, Tensor]) -> Tensor:
    """Return the system of each row of the forces: of free atoms, which ``natoms`` counts, or of all."""
    natoms = target["natoms"]
    if natoms.sum() != len(target["forces"]):
        return target["batch"]
    return torch.arange(len(natoms), device=natoms.device).repeat_interleave(natoms)


def _labelled(target: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return which systems (B,) have all labels of these names."""
    known = torch.ones(len(target["natoms"]), dtype=torch.bool, device=target["natoms"].device)
    for name in names:
        missing = target[name][:, None].flatten(1).isnan().any(dim=1)
        known[_systems_of_forces(target)[missing] if name == "forces" else missing] = False
    return known


def _rows(values: Mapping[str, Tensor], target: Mapping[str, Tensor], known: Tensor) -> dict[str, Tensor]:
    """Return the labels and ``natoms`` of some of the systems, and everything else as it is."""
    if known.all():
        return dict(values)
    masks = {"energy": known, "stress": known, "natoms": known}
    if "forces" in values:
        masks["forces"] = known[_systems_of_forces(target)]
    return {name: value[masks[name]] if name in masks else value for name, value in values.items()}


class LabelledTrainer(WholeResultsTrainer):
    """fairchem's trainer for data sets in which only some structures have energies, forces or stresses."""

    loss_functions: list[Any]
    collater: Any

    def get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return fairchem's loader, which takes samples without labels too."""
        self.collater = partial(
            collate,
            targets=tuple(self.config["outputs"]),
            otf_graph=self.config["model"].get("otf_graph", False),
        )
        return super().get_dataloader(*args, **kwargs)

    def load_loss(self) -> None:
        """Make fairchem's losses, of what is labelled."""
        super().load_loss()
        self.loss_functions = [
            (target, {**loss, "fn": LabelledLoss(loss["fn"])}) for target, loss in self.loss_functions
        ]

    def _compute_loss(self, out: Any, batch: Any) -> Tensor:
        with _free_atoms_named(batch):
            return super()._compute_loss(out, batch)

    def _compute_metrics(self, out: Any, batch: Any, evaluator: Any, metrics: Any = None) -> Any:
        ours = LabelledEvaluator(eval_metrics=evaluator.target_metrics)
        with _free_atoms_named(batch):
            return super()._compute_metrics(out, batch, ours, metrics)


@contextmanager
def _free_atoms_named(batch: Any) -> Iterator[None]:
    """Raise `InputError` where fairchem fails for a batch without a free atom, whose forces it compares."""
    try:
        yield
    except RuntimeError as error:
        if "of 0 elements" not in str(error) or (batch.fixed == 0).any():
            raise
        names = ", ".join(map(str, batch.sid.tolist() if isinstance(batch.sid, Tensor) else batch.sid))
        raise InputError(
            f"all atoms of the systems {names} are fixed, and the forces of free atoms are compared: raise "
            "the batch size, leave such systems out, or set train_on_free_atoms and eval_on_free_atoms of "
            "outputs.forces to False"
        ) from error
