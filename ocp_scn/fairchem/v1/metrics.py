"""fairchem's metrics of predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ocp_scn.fairchem.v1.labels import LabelledEvaluator


def evaluate(
    names: Mapping[str, list[str]], prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return fairchem's metrics, each over the systems with the labels that it compares.

    Args:
        names: the metrics of each target, such as ``{"energy": ["mae"]}``.
        prediction: targets, and ``natoms`` (S,), of S systems.
        truth: the same, with NaN for what is not known.
    """
    result = LabelledEvaluator(eval_metrics=dict(names)).eval(dict(prediction), dict(truth))
    return {name: float(value["metric"]) for name, value in result.items()}
