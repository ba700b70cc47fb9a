"""Training on forces that are derivatives of the energy, through the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.commands.conftest import ROOT, Command, refused

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
    loaded = torch.load(checkpoint, weights_only=False)
    loaded["normalizers"]["forces"]["rmsd"] *= 2
    torch.save(loaded, tmp_path / "twice.pt")
    words[1] = tmp_path / "twice.pt"
    line = refused(fairchem("validate", tmp_path, *words, config_yml=smooth_config, ok=False))
    assert "has mean 0.0 and rmsd 1.12; expected mean 0.0 and rmsd 0.56" in line


def test_two_scales_are_refused(fairchem: Command, smooth_config: Path, tmp_path: Path) -> None:
    scale = "--dataset.train.transforms.normalizer.energy.stdev=2.0"
    line = refused(fairchem("train", tmp_path, scale, config_yml=smooth_config, ok=False))
    assert "output 'forces' (direct_forces=False) is a derivative of the energy" in line
    assert "has mean 0.0 and rmsd 0.56; expected mean 0.0 and rmsd 2.0" in line
    assert not list(tmp_path.iterdir())


def test_two_fitted_scales_are_refused(fairchem: Command, smooth_config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(smooth_config.read_text())
    fit = {"fit": {"targets": {"energy": {"mean": 0}, "forces": {"mean": 0}}, "batch_size": 8}}
    settings["dataset"]["train"]["transforms"]["normalizer"] = fit
    (tmp_path / "fit.yml").write_text(yaml.safe_dump(settings))
    line = refused(fairchem("train", tmp_path, config_yml=tmp_path / "fit.yml", ok=False))
    assert "output 'forces' (direct_forces=False) is a derivative of the energy" in line
