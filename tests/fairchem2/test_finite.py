"""What is not finite, in a training of fairchem-core 2."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairchem.core.modules.loss import DDPMTLoss, L2NormLoss, MAELoss

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2.losses import LabelledLoss
from ocp_scn.fairchem.v2.runner import nothing_compared
from ocp_scn.fairchem.v2.training import TrainingGuard, _check_losses


@pytest.mark.parametrize("inner", [MAELoss, L2NormLoss])
def test_only_what_is_labelled_counts(inner: Any) -> None:
    """fairchem's loss is 0 for all where one without a label is NaN."""
    prediction = torch.arange(12.0).view(4, 3)
    prediction[2] = math.nan
    prediction.requires_grad_()
    mask = torch.tensor([True, True, False, True])
    if inner is MAELoss:
        mask = mask[:, None].expand(4, 3)
    target = torch.where(torch.tensor([True, True, False, True])[:, None], torch.ones(4, 3), math.inf)
    loss = DDPMTLoss(inner(), coefficient=2.0)
    assert loss(prediction, target, mask, torch.ones(4)) == 0
    found = LabelledLoss(loss)(prediction, target, mask, torch.ones(4))
    found.backward()
    rows = torch.tensor([0, 1, 3])
    expected = loss(prediction[rows], target[rows], mask[rows], torch.ones(3))
    assert found.item() == pytest.approx(expected.item())
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert not prediction.grad[2].any()
    assert prediction.grad[rows].any()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_labelled_prediction_that_is_not_finite_has_such_a_gradient(wrong: float) -> None:
    weight = torch.ones(1, requires_grad=True)
    prediction = weight * torch.tensor([[1.0], [wrong]])
    mask = torch.tensor([True, True])
    loss = LabelledLoss(DDPMTLoss(MAELoss()))(prediction, torch.zeros(2, 1), mask, torch.ones(2))
    loss.backward()
    assert weight.grad is not None
    assert not weight.grad.isfinite()


def unit(norm: float) -> Any:
    return SimpleNamespace(last_grad_norm=norm, train_progress=SimpleNamespace(num_steps_completed=8))


def test_a_training_ends_after_such_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = TrainingGuard(seed=0)
    guard.set_runner_callbacks(lambda location: None, None, str(tmp_path / "none"))
    guard._batch = {"sid": ["a", "b"]}
    guard.on_train_step_end(None, unit(1.0))
    expected = "step 7: the loss or its gradient is not finite, in a batch of systems a, b; this run has no"
    with pytest.raises(InputError, match=expected) as raised:
        guard.on_train_step_end(None, unit(math.nan))
    with pytest.raises(SystemExit) as ended:
        guard.on_exception(None, unit(math.nan), raised.value)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")
    guard.on_exception(None, unit(1.0), RuntimeError("a fault of ours"))  # keeps its traceback


def test_each_readout_has_a_task() -> None:
    """torch's DistributedDataParallel ends at the second step otherwise."""
    backbone = SimpleNamespace(config=SCNConfig())
    unit = SimpleNamespace(model=SimpleNamespace(module=SimpleNamespace(backbone=backbone)))
    unit.tasks = [SimpleNamespace(property="energy")]
    with pytest.raises(InputError, match="tasks has none of forces, for which the model has weights"):
        _check_losses(unit)
    unit.tasks.append(SimpleNamespace(property="forces"))
    _check_losses(unit)


def test_an_evaluation_of_nothing_is_named() -> None:
    none, some = SimpleNamespace(numel=0), SimpleNamespace(numel=3)
    unit = SimpleNamespace(running_metrics={"a": {"oc20": {"mae": none}}, "b": {"oc20": {"mae": some}}})
    found = nothing_compared(unit)
    assert isinstance(found, InputError)
    assert "nothing to compare with predictions of a: no labels" in str(found)
    del unit.running_metrics["a"]
    assert nothing_compared(unit) is None
