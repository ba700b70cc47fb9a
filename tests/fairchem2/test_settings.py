"""Numbers of a training's configuration, looked at before anything is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fairchem.core._cli import get_hydra_config_from_yaml
from omegaconf import OmegaConf

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2.runner import _CHECKS, TrainRunner, check_settings
from tests.commands.conftest import ROOT

CONFIGS = ROOT / "configs/fairchem2"
EXAMPLES = sorted(
    path
    for path in CONFIGS.glob("*/*.yaml")
    if path.stem not in ("base", "evaluate") and "heads" not in path.parts
)
# Values that no number of a training has, beside those of other types.
WRONG = {
    "max_epochs": (0, -1, 1.5),
    "evaluate_every_n_steps": (0,),
    "train_dataloader.num_workers": (-1,),
    "train_dataloader.batch_sampler_fn.max_atoms": (0, 1.5),
    "train_eval_unit.print_every": (0,),
    "train_eval_unit.ema_decay": (1.0, -0.1, float("nan")),
    "train_eval_unit.clip_grad_norm": (0, float("inf")),
    "train_eval_unit.optimizer_fn.lr": (0, -1e-3, float("nan"), float("inf")),
    "train_eval_unit.cosine_lr_scheduler_fn.milestones": ([0], [2, 1], ["a"], 5),
    "train_eval_unit.cosine_lr_scheduler_fn.gamma": (0, -1),
    "train_eval_unit.cosine_lr_scheduler_fn.warmup_steps": (-1, 1.5),
    "train_eval_unit.cosine_lr_scheduler_fn.warmup_factor": (0,),
    "train_eval_unit.tasks.0.loss_fn.coefficient": (-1, float("nan")),
    "callbacks.2.checkpoint_every_n_steps": (0, 1.5),
}


def section(path: Path, *words: str) -> Any:
    """Return the section ``runner`` of a configuration as fairchem instantiates it."""
    given = (
        "train_src=train",
        "val_src=val",
        "milestones=[100]",
        "+job.timestamp_id=x",
        "job.run_dir=/tmp/none",
    )
    return get_hydra_config_from_yaml(str(path), list(given + words)).runner


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_experiments_pass(path: Path) -> None:
    runner = section(path, *(["finetune=a.pt"] if path.stem == "finetune" else []))
    assert runner["_target_"] == "ocp_scn.fairchem.v2.TrainRunner"
    check_settings(OmegaConf.to_container(runner))


@pytest.fixture(scope="module")
def example() -> Any:
    return section(CONFIGS / "s2ef/example.yaml")


@pytest.mark.parametrize("place", WRONG)
def test_numbers_are_named(place: str, example: Any) -> None:
    for value in (*WRONG[place], "text", True, {"a": 1}):
        changed = OmegaConf.create(OmegaConf.to_container(example))
        OmegaConf.update(changed, place, value, merge=False)
        with pytest.raises(InputError) as caught:
            check_settings(OmegaConf.to_container(changed))
        assert str(caught.value).startswith(f"runner.{place}")
        assert "; expected " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_number_is_where_the_configuration_has_it(example: Any) -> None:
    """A check of a place that no configuration has would pass everything."""
    absent = ("train_eval_unit.optimizer_fn.weight_decay", "max_steps", "max_eval_steps_per_epoch")
    for place in _CHECKS:
        parts = place.split(".")
        if parts[0] == "callbacks":
            parts.insert(1, "2")
        if parts[1:2] == ["tasks"]:
            parts.insert(2, "0")
        found = OmegaConf.select(example, ".".join(parts))
        assert (found is None) == (place in absent), place


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("max_epochs", 0, "runner.max_epochs=0; expected an integer of at least 1"),
        ("callbacks", 3, "runner.callbacks=3; expected a section"),
        ("train_eval_unit.tasks.0.normalizer.rmsd", 0, "normalizer.rmsd=0; expected a number above 0"),
    ],
)
def test_a_refusal_is_one_line(
    place: str, value: object, message: str, example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = OmegaConf.create(OmegaConf.to_container(example))
    OmegaConf.update(changed, place, value, merge=False)
    changed = {name: changed[name] for name in changed if not name.startswith("_")}
    for loader in ("train_dataloader", "eval_dataloader"):  # there are no data
        changed[loader] = []
    with pytest.raises(SystemExit) as ended:
        TrainRunner(**changed)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
