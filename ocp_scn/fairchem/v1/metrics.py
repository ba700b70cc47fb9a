"""fairchem's metrics of predictions."""

from __future__ import annotations

from collections.abc import Mapping

from fairchem.core.modules.evaluator import Evaluator
from torch import Tensor


def evaluate(
    names: Mapping[str, list[str]], prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return fairchem's metrics.

    Args:
        names: the metrics of each target, such as ``{"energy": ["mae"]}``.
        prediction: targets, and ``natoms`` (S,), of S systems.
        truth: the same.
    """
    result = Evaluator(eval_metrics=dict(names)).eval(dict(prediction), dict(truth))
    return {name: float(value["metric"]) for name, value in result.items()}
