"""Training on forces that are derivatives of the energy, through the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.commands.conftest import ROOT, Command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smooth_config(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of the smooth mode with a tiny model, on the small data set."""
    settings = yaml.safe_load(config.read_text())
    smooth = yaml.safe_load((ROOT / "configs/s2ef/example/scn-smooth.yml").read_text())
    settings["dataset"]["train"]["transforms"] = smooth["dataset"]["train"]["transforms"]
    settings["loss_functions"] = smooth["loss_functions"]
    settings["model"] |= smooth["model"] | {"num_sphere_samples": 18, "cutoff": 3.5}
    settings["optim"] |= {"max_epochs": 1, "batch_size": 8}
    path = tmp_path_factory.mktemp("smooth") / "smooth.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_trains_and_predicts(fairchem: Command, smooth_config: Path, tmp_path: Path) -> None:
    fairchem("train", tmp_path, "--timestamp-id", "train", config_yml=smooth_config)
    checkpoint = tmp_path / "checkpoints/train/best_checkpoint.pt"
    weights = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert not any("force_" in name for name in weights)
    words = ["--checkpoint", checkpoint, "--timestamp-id", "evaluated"]
    assert "forces_mae" in fairchem("validate", tmp_path, *words, config_yml=smooth_config).stdout
    fairchem("predict", tmp_path, *words, config_yml=smooth_config)
    predictions = np.load(tmp_path / "results/evaluated/ocp_predictions.npz")
    assert np.isfinite(predictions["forces"]).all()
    assert np.abs(predictions["forces"]).max() > 0


def test_two_scales_are_refused(fairchem: Command, smooth_config: Path, tmp_path: Path) -> None:
    scale = "--dataset.train.transforms.normalizer.energy.stdev=2.0"
    done = fairchem("train", tmp_path, scale, config_yml=smooth_config, ok=False)
    assert done.returncode == 2
    assert "direct_forces=False" in done.stderr
    assert "mean 0.0 and stdev 0.56; expected 0 and 2.0" in done.stderr
