"""Numbers that are not finite end a training: before they are applied, saved or loaded."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairchem.core.modules.loss import DDPLoss

from ocp_scn.errors import InputError
from ocp_scn.fairchem.finite import LARGEST_LABEL, check_finite_weights, check_label
from ocp_scn.fairchem.v1.guard import GuardedTrainer
from ocp_scn.fairchem.v1.labels import LabelledLoss
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor([1.0, math.nan])])
def test_labels_that_are_not_finite(value: Any) -> None:
    with pytest.raises(InputError, match="system 7 has energy with numbers that are not finite"):
        check_label("system 7", "energy", value)


def test_labels_of_no_structure() -> None:
    with pytest.raises(InputError, match=r"system 7 has energy with -1e\+30; expected numbers up to 1e\+10"):
        check_label("system 7", "energy", torch.tensor([3.0, -1e30]))
    check_label("system 7", "energy", -LARGEST_LABEL)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("fn", ["mae", "mse", "l2mae"])
def test_a_prediction_that_is_not_finite_makes_its_loss_nan(fn: str, wrong: float) -> None:
    """fairchem's loss takes 0 for it. One that has no label does not count."""
    prediction = torch.ones(4, 3)
    prediction[2, 1] = wrong
    target = torch.zeros(4, 3)
    loss = LabelledLoss(DDPLoss(fn, reduction="mean"))
    natoms = torch.tensor([4])
    assert loss(prediction, target, natoms).isnan()
    target[2] = math.nan
    prediction.requires_grad_()
    value = loss(prediction, target, natoms)
    value.backward()
    assert value.isfinite()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_no_label_and_no_finite_prediction() -> None:
    prediction = torch.full((2, 9), math.nan, requires_grad=True)
    loss = LabelledLoss(DDPLoss("mae", reduction="mean"))(prediction, prediction.detach(), torch.ones(2))
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def trainer(folder: Path, *, scaler: Any = None) -> GuardedTrainer:
    """Return a trainer of one weight, without a run, as ``load_extras`` leaves it."""
    found = GuardedTrainer.__new__(GuardedTrainer)
    found.model = torch.nn.Linear(1, 1)
    found.optimizer = torch.optim.AdamW(found.model.parameters(), lr=0.1)
    found.config = {
        "optim": {"scheduler": "Null", "clip_grad_norm": 2.0},
        "cmd": {"checkpoint_dir": str(folder)},
        "logger": "tensorboard",
    }
    found.logger, found.scaler, found.step = None, scaler, 5
    found.batch = {"sid": ["a", "b"], "fid": torch.tensor([3, 4])}
    found.load_extras()
    found.metrics = {"loss": {"total": 1.0}}
    return found


def weights(found: GuardedTrainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in found.model.parameters()])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path, wrong: float) -> None:
    found = trainer(tmp_path)
    before = weights(found)
    loss = found.model(torch.ones(1, 1)).sum()
    loss.register_hook(lambda gradient: gradient * wrong)
    expected = (
        "step 5: the gradient is not finite, in a batch of systems a_3, b_4; this run has no checkpoint"
    )
    with pytest.raises(InputError, match=expected):
        found._backward(loss)
    assert torch.equal(weights(found), before)


def test_a_loss_that_is_not_finite_has_no_backward_pass(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    (tmp_path / "checkpoint.pt").touch()
    loss = found._own_loss = found.model(torch.ones(1, 1)).sum() * math.nan
    found.metrics["loss"]["total"] = math.nan
    expected = (
        f"step 5: the loss is not finite, in a batch of systems a_3, b_4; the last checkpoint is {tmp_path}"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        found._backward(loss)
    assert all(value.grad is None for value in found.model.parameters())


def test_gradients_are_clipped_as_fairchem_clips_them(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    logged: list[float] = []
    found.logger = SimpleNamespace(log=lambda values, **_: logged.append(values["grad_norm"]))
    found._backward(1000 * found.model(torch.ones(1, 1)).sum())
    assert logged == [pytest.approx(1000 * math.sqrt(2))]
    norm = torch.cat([value.grad.flatten() for value in found.model.parameters()]).norm()
    assert norm.item() == pytest.approx(2.0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_no_fault(tmp_path: Path, fused: bool) -> None:
    found = trainer(tmp_path, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**120))
    found.optimizer = torch.optim.AdamW(found.model.parameters(), lr=0.1, fused=fused)
    found.load_extras()
    before = weights(found)
    found._backward(found.scaler.scale(found.model(torch.full((1, 1), 1e10)).sum()))
    assert torch.equal(weights(found), before)
    assert found.scaler.get_scale() == 2.0**119
    found._backward(found.scaler.scale(found.model(torch.ones(1, 1)).sum()))
    assert not torch.equal(weights(found), before)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    found.ema = None
    with torch.no_grad():
        found.model.bias.fill_(math.inf)
    with pytest.raises(
        InputError, match="step 5 is not saved, this run has no checkpoint yet: the model has"
    ):
        found.save()
    checkpoint = {"state_dict": found.model.state_dict()}
    with pytest.raises(
        InputError, match=r"checkpoint x\.pt has numbers that are not finite in 1 of 2 weights, bias"
    ):
        found.load_checkpoint("x.pt", checkpoint)
    average = {"state_dict": {}, "ema": {"shadow_params": [torch.ones(1), torch.tensor(math.nan)]}}
    with pytest.raises(InputError, match="average 1 first"):
        found.load_checkpoint("x.pt", average)


def test_a_model_takes_no_such_weights() -> None:
    """Whoever loads them: the calculators of both lines come here."""
    model = SphericalChannelNetwork(
        lmax=1, num_interactions=1, hidden_channels=4, sphere_channels=4, otf_graph=True
    )
    state = model.state_dict()
    state["sphere_embedding.weight"] = state["sphere_embedding.weight"].clone().fill_(math.nan)
    with pytest.raises(InputError, match=r"not finite in 1 of \d+ weights, sphere_embedding.weight first"):
        model.load_state_dict(state)
    check_finite_weights("these", {"n_averaged": torch.tensor(0), "other": "text"})
