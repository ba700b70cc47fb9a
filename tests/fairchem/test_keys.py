"""Keys of a configuration that nothing reads, and names of things that there are not."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core.common.utils import load_config

import ocp_scn  # noqa: F401  # registers losses
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.checks import check_run
from ocp_scn.fairchem.v1.sections import check_sections
from tests.test_configs import CONFIGS, PUBLISHED_T4_B2

BASE = "configs/s2ef/base.yml"
# Keys of fairchem's published example files, beyond those of the files here.
PUBLISHED = {
    "task": {
        "strict_load": True,
        "eval_relaxations": False,
        "num_relaxation_batches": 5,
        "relax_dataset": {"src": "data.lmdb", "total_shards": 1, "shard": 0},
        "relax_opt": {"name": "lbfgs", "maxstep": 0.04, "traj_dir": "folder"},
        "save_full_traj": True,
        "set_deterministic_scatter": False,
        "primary_metric": "forces_mae",
    },
    "optim": {"load_balancing": "atoms", "weight_decay": 0, "loss_force": "l2mae", "force_coefficient": 1},
    "slurm": {"constraint": "rtx_6000"},
}
PLATEAU = {"scheduler": "ReduceLROnPlateau", "mode": "min", "factor": 0.8, "patience": 3}


def merged(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the keys of a change put into its sections."""
    found = copy.deepcopy(dict(config))
    for key, value in change.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found


def base() -> dict[str, Any]:
    return yaml.safe_load(Path(BASE).read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_experiments_pass(name: str) -> None:
    check_sections({**load_config(name)[0], "mode": "train"})


def test_published_files_pass() -> None:
    check_sections(PUBLISHED_T4_B2)
    check_sections(merged(base(), PUBLISHED))
    check_sections(merged(base(), {"optim": PLATEAU}))
    data = {"train_on_oc20_total_energies": False, "oc20_ref": "file.pkl", "lin_ref": False}
    check_sections(
        {"dataset": {"train": {"src": "data", "normalize_labels": True, "target_std": 2.0, **data}}}
    )


def keys(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key."""
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        yield (*path, key)
        yield from keys(value, (*path, key))
    for index, value in enumerate(settings) if isinstance(settings, list) else ():
        yield from keys(value, (*path, index))


def test_every_misspelt_key_of_an_experiment_is_named() -> None:
    """Each key but those that have tests of their own, and the names of labels and outputs."""
    config = base()
    checked = [
        path
        for path in keys(config)
        if len(path) > 1
        and path[0] != "model"
        and path[:-1] != ("outputs",)
        and not {"key_mapping", "mean", "stdev"} & set(path)
    ]
    assert len(checked) > 40
    for path in checked:
        changed = copy.deepcopy(config)
        section: Any = changed
        for key in path[:-1]:
            section = section[key]
        name = path[-1]
        section[f"{name}x"] = section.pop(name)
        with pytest.raises(InputError, match=rf"'{name}x'.*; (did you mean '{name}'\?|expected normalizer)"):
            check_sections(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optim": {"bacth_size": 4}},
            "optim has 'bacth_size', which nothing reads; did you mean 'batch_size'?",
        ),
        ({"optim": {"zzz": 4}}, "optim has 'zzz', which nothing reads; known: batch_size, eval_batch_size, "),
        ({"optim": {"scheduler_params": {}}}, "optim has 'scheduler_params', which nothing reads"),
        ({"optim": PLATEAU | {"patients": 3}}, "did you mean 'patience'?"),
        ({"optim": {"scheduler": "StepLR"}}, "optim.scheduler='StepLR' needs optim.step_size; it is not set"),
        (
            {"optim": {"scheduler": None}},
            "optim.scheduler=None; expected a class of torch.optim.lr_scheduler",
        ),
        ({"optim": {"optimizer": "Adamw"}}, "optim.optimizer='Adamw'; expected a class of torch.optim"),
        ({"optim": {"optimizer_params": {"lr": 1}}}, "optim.optimizer_params has 'lr', which nothing reads"),
        ({"optim": {"optimizer_params": {"beta": 1}}}, "did you mean 'betas'?"),
        ({"logger": {"name": "wandb", "projekt": "x"}}, "logger has 'projekt'"),
        (
            {"dataset": {"trian": {"src": "x"}}},
            "dataset has 'trian', which nothing reads; did you mean 'train'?",
        ),
        ({"task": {"relax_dataset": {"sorc": "x"}}}, "task.relax_dataset has 'sorc'"),
        (
            {"dataset": {"train": {"transforms": {"normalizer": {"fit": {"target": []}}}}}},
            "dataset.train.transforms.normalizer.fit has 'target'",
        ),
        (
            {"loss_functions": [{"energy": {"fn": "mea", "coefficient": 1}}]},
            "loss_functions.energy.fn='mea'; ",
        ),
        ({"loss_functions": [{"energy": {"fn": "mae"}}]}, "loss_functions.energy has no coefficient"),
        ({"loss_functions": [{"engy": {"fn": "mae"}}]}, "loss_functions has 'engy'"),
        (
            {"evaluation_metrics": {"metrics": {"energy": "mae"}}},
            "metrics.energy='mae'; expected a list of metrics",
        ),
        ({"evaluation_metrics": {"metrics": {"energy": ["mea"]}}}, "metrics.energy=['mea']; expected a list"),
        ({"evaluation_metrics": {"metrics": {"energy": [1]}}}, "metrics.energy=[1]; expected a list"),
        ({"outputs": {"forces": {"level": None}}}, "outputs.forces.level=None; expected atom"),
        ({"outputs": {"energy": {"level": "atom"}}}, "outputs.energy.level='atom'; expected system"),
        (
            {"outputs": {"forces": {"eval_on_free_atoms": "yes"}}},
            "outputs.forces.eval_on_free_atoms='yes'; expected True or False",
        ),
        (
            {"evaluation_metrics": {"primary_metric": "force_mae"}},
            "primary_metric='force_mae'; expected the metric",
        ),
    ],
)
def test_what_nothing_reads(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check_sections({**merged(base(), change), "mode": "train"})
    assert "\n" not in str(caught.value)


def test_an_output_that_the_model_has_not() -> None:
    with pytest.raises(InputError, match="outputs has 'force', which nothing reads; did you mean 'forces'"):
        check_run({"model": {"name": "scn"}, "outputs": {"force": {"level": "atom"}}})


def test_parameters_are_those_of_the_class() -> None:
    """Other optimizers and schedules of torch have other parameters."""
    config = {"optimizer": "SGD", "optimizer_params": {"momentum": 0.9, "nesterov": True}}
    check_sections({"optim": config})
    check_sections({"optim": {"optimizer": "LBFGS", "optimizer_params": {"history_size": 3}}})
    schedule = {"scheduler": "CosineAnnealingLR", "T_max": 100, "eta_min": 1e-6}
    check_sections({"optim": schedule})
