"""Every experiment below configs/fairchem2 is complete, and the one of fairchem 1 that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core._cli import get_hydra_config_from_yaml
from omegaconf import OmegaConf

from ocp_scn import SCNConfig
from ocp_scn.fairchem.v2 import SCNModel
from tests.commands.conftest import ROOT

FOLDER = ROOT / "configs/fairchem2"
EXPERIMENTS = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.glob("*/*.yaml")
    if path.stem not in ("base", "evaluate", "finetune")
)
# What tiny models stand in for: the settings that make the published ones large.
SMALL = {
    "num_interactions": 1,
    "hidden_channels": 8,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "num_basis_functions": 8,
}


def compose(name: str, *words: str) -> dict[str, Any]:
    config = get_hydra_config_from_yaml(str(FOLDER / name), list(words))
    return OmegaConf.to_container(config, resolve=True)


def fairchem1(path: Path) -> dict[str, Any]:
    """Return a configuration of fairchem 1 with what it includes."""
    config = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for name in config.pop("includes", []):
        merge(merged, fairchem1(ROOT / name))
    return merge(merged, config)


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(first.get(key), dict)
        first[key] = merge(first[key], value) if both else value
    return first


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_model_is_built(name):
    """With few channels, since those with all are large."""
    unit = compose(name, *[f"++model.backbone.{key}={value}" for key, value in SMALL.items()])["runner"]
    model = unit["train_eval_unit"]["model"]
    assert model.pop("_target_") == "ocp_scn.fairchem.v2.SCNModel"
    assert isinstance(SCNModel(**model), SCNModel)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_that_of_fairchem_1(name):
    """Model, losses, normalizers, learning rate and decays are the same."""
    old, unit = both(name)
    settings = {key: value for key, value in old["model"].items() if key != "name"}
    new = {key: value for key, value in unit["model"]["backbone"].items() if key != "model"}
    assert SCNConfig.from_settings({**new, "otf_graph": True}) == SCNConfig.from_settings(settings)
    for task in unit["tasks"]:
        scale = old["dataset"]["train"]["transforms"]["normalizer"][task["property"]]
        assert (task["normalizer"]["mean"], task["normalizer"]["rmsd"]) == (scale["mean"], scale["stdev"])


def both(name: str, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return fairchem 1's configuration and the unit of an experiment, after what they have in common."""
    text = (FOLDER / name).read_text()
    path = ROOT / re.search(r"The experiment of (\S+\.yml)\.", text)[1]
    old, runner = fairchem1(path), compose(name, *words)["runner"]
    unit = runner["train_eval_unit"]
    optim, optimizer = old["optim"], unit["optimizer_fn"]
    assert optimizer["lr"] == optim["lr_initial"]
    assert optimizer["amsgrad"] is optim["optimizer_params"]["amsgrad"]
    schedule = unit["cosine_lr_scheduler_fn"]
    assert [schedule[key] for key in ("milestones", "gamma", "warmup_steps", "warmup_factor")] == [
        optim[key] for key in ("lr_milestones", "lr_gamma", "warmup_steps", "warmup_factor")
    ]
    assert unit["ema_decay"] == optim["ema_decay"]
    assert unit["clip_grad_norm"] == optim["clip_grad_norm"]
    assert runner["max_epochs"] == optim["max_epochs"]
    losses = {key: value for entry in old["loss_functions"] for key, value in entry.items()}
    for task in unit["tasks"]:
        assert task["loss_fn"].get("coefficient", 1) == losses[task["property"]]["coefficient"]
    assert {task["property"] for task in unit["tasks"]} == set(losses)
    return old, unit


@pytest.mark.parametrize("task", ["s2ef", "is2re"])
def test_fine_tuning_is_that_of_fairchem_1(task):
    """Model and scales are those of a checkpoint."""
    old, unit = both(f"{task}/finetune.yaml", "finetune=a.pt")
    assert "transforms" not in old["dataset"]["train"]
    assert unit["model"].pop("backbone") == old.get("model", {})
    assert unit["model"] == {
        "_target_": "ocp_scn.fairchem.v2.finetuned_model",
        "checkpoint": "a.pt",
        "task_name": "oc20",
    }
    assert all(one["normalizer"]["rmsd"] is None for one in unit["tasks"])


@pytest.mark.parametrize("name", ["s2ef/evaluate.yaml", "is2re/evaluate.yaml", "predict.yaml"])
def test_the_other_files_are_complete(name):
    words = ["checkpoint=a.pt", "src=b", *(["results=c.npz"] if name == "predict.yaml" else [])]
    assert compose(name, *words)["runner"]["_target_"]
