"""From a user's own calculations to a trained model and its report, by two commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.calculations import write_calculations
from tests.commands.conftest import Command

pytestmark = pytest.mark.slow


def test_convert_and_train(command: Command, tmp_path: Path) -> None:
    """The command that convert prints last trains, with an override; errors fall, and a report says so."""
    source = write_calculations(tmp_path / "mine.extxyz", 30)
    printed = command("-m", "ocp_scn.data", "convert", source, tmp_path / "mine").stdout
    words = shlex.split(printed.splitlines()[-1].removeprefix("next: ocp-scn "))
    words[words.index("--run-dir") + 1] = str(tmp_path / "run")
    more = ["--optim.max_epochs=25", "--print-every=8", *([] if "--cpu" in words else ["--cpu"])]
    command("-m", "ocp_scn_cli", *words, *more)
    (log,) = (tmp_path / "run/checkpoints").glob("*/run.log")
    lines = re.findall(r"forces_mae: (\S+),.* lr: ", log.read_text())  # of training steps
    errors = [float(value) for value in lines]
    assert len(errors) == 25
    assert errors[-1] < 0.5 * errors[0]
    (best,) = (tmp_path / "run/checkpoints").glob("*/best_checkpoint.pt")
    checkpoint = torch.load(best, weights_only=False)
    assert checkpoint["config"]["trained_elements"] == [29, 79]
    assert checkpoint["elementrefs"]["energy"]["element_references"][[29, 79]].abs().min() > 0
    assert list((tmp_path / "run/results").glob("*/ocp_predictions.npz"))  # of the test set
    metrics = json.loads((tmp_path / "run/report/metrics.json").read_text())
    assert list(metrics["s2ef"]) == ["test"]
