"""Every experiment below configs/ loads, builds its model and trains as its comments say."""

import functools
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from fairchem.core.common.utils import load_config, update_config
from fairchem.core.modules.scheduler import LRScheduler

from ocp_scn import SCNCalculator, SphericalChannelNetwork
from ocp_scn.fairchem.v1.checks import check_model, check_relaxation, check_run
from ocp_scn.fairchem.v1.launcher import main
from ocp_scn.fairchem.v1.lmdb import to_graph
from ocp_scn.fairchem.v1.registration import NAMES
from ocp_scn.trained import to_fairchem1
from tests.samples import write_lmdb
from tests.test_calculator import SMOOTH, trained

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for task in ("s2ef", "is2re")
    for path in (ROOT / "configs" / task).rglob("*.yml")
    if path.name != "base.yml"
)
# Their models are those of checkpoints.
FINETUNE = {f"configs/{task}/example/finetune.yml" for task in ("s2ef", "is2re")}
OC20 = [name for name in CONFIGS if name.split("/")[2] in ("200k", "2M", "20M", "10k", "100k", "all")]
PUBLISHED_PARAMETERS = {  # millions
    "configs/s2ef/2M/scn-t1-b1.yml": 123.56,
    "configs/s2ef/2M/scn-t4-b2.yml": 126.71,
    "configs/s2ef/all/scn-t4-b2.yml": 168.92,
    "configs/s2ef/all/scn-all-md.yml": 168.92,
}
BATCH = re.compile(r"# Batch: (\d+) x (\d+) GPUs = (\d+)\.")
DECAYS = re.compile(r"Training set: ([\d,]+)\. Decays after epochs ([\d., ]+)\.\n")
TINY = {
    "num_interactions": 1,
    "lmax": 2,
    "hidden_channels": 8,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "num_basis_functions": 8,
    "num_sphere_samples": 8,
    "cutoff": 4.0,
    "max_num_neighbors": 14,
}
PUBLISHED_T4_B2 = {  # the file of 2022, in the layout of its time
    "trainer": "forces",
    "logger": "tensorboard",
    "dataset": [
        {
            "src": "data/s2ef/2M/train/",
            "normalize_labels": True,
            "target_mean": -0.7554450631141663,
            "target_std": 2.887317180633545,
            "grad_target_mean": 0.0,
            "grad_target_std": 2.887317180633545,
        },
        {"src": "data/s2ef/all/val_id/"},
    ],
    "task": {
        "dataset": "trajectory_lmdb",
        "type": "regression",
        "metric": "mae",
        "labels": ["potential energy"],
        "grad_input": "atomic forces",
        "train_on_free_atoms": True,
        "eval_on_free_atoms": True,
    },
    "model": {
        "name": "scn",
        "num_interactions": 12,
        "hidden_channels": 1024,
        "sphere_channels": 128,
        "sphere_channels_reduce": 128,
        "num_sphere_samples": 128,
        "num_basis_functions": 128,
        "distance_function": "gaussian",
        "max_num_neighbors": 40,
        "cutoff": 8.0,
        "lmax": 6,
        "mmax": 1,
        "use_grid": True,
        "num_bands": 2,
        "num_taps": -1,
        "regress_forces": True,
        "use_pbc": True,
        "basis_width_scalar": 2.0,
        "otf_graph": True,
    },
    "optim": {
        "batch_size": 3,
        "eval_batch_size": 3,
        "num_workers": 8,
        "lr_initial": 0.0004,
        "optimizer": "AdamW",
        "optimizer_params": {"amsgrad": True},
        "eval_every": 5000,
        "lr_gamma": 0.3,
        "lr_milestones": [208333, 291667, 375000, 458333],
        "warmup_steps": 100,
        "warmup_factor": 0.2,
        "max_epochs": 12,
        "force_coefficient": 100,
        "energy_coefficient": 2,
        "clip_grad_norm": 100,
        "ema_decay": 0.999,
        "loss_energy": "mae",
        "loss_force": "l2mae",
    },
}


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # includes are relative to it


@pytest.fixture
def quiet():
    """Undo what a run does to logging."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """Return folders with a few S2EF and IS2RE samples."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)

    def samples(task):
        for sid in range(4):
            atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
            add_adsorbate(atoms, "O", 1.2)
            atoms.set_pbc(True)
            atoms.set_constraint(FixAtoms(range(4)))
            atoms.rattle(0.05, seed=sid)
            forces = torch.from_numpy(generator.normal(size=(len(atoms), 3))).float()
            energy = float(generator.normal())
            labels = {"energy": energy, "forces": forces} if task == "s2ef" else {"y_relaxed": energy}
            yield to_graph(atoms, sid=sid, fid=0, **labels)

    for task in ("s2ef", "is2re"):
        write_lmdb(folder / task, samples(task))
    return folder


def read(name):
    config, _, errors = load_config(name)
    assert not errors
    return config


@functools.lru_cache
def num_parameters(settings):
    with torch.device("meta"):
        model = SphericalChannelNetwork(**json.loads(settings))
    return sum(parameter.numel() for parameter in model.parameters())


def train(name, run_dir, finetune=None, **overrides):
    words = [f"--{key}={value}" for key, value in overrides.items()]
    words += [f"--model.{key}={value}" for key, value in TINY.items() if finetune is None]
    words += ["--optim.max_epochs=1", "--optim.batch_size=2", "--optim.num_workers=0", "--optim.eval_every=1"]
    arguments = ["--mode", "train", "--config-yml", str(name), "--cpu", "--run-dir", str(run_dir)]
    return main(arguments + words, finetune=finetune)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in FINETUNE])
def test_loads_and_builds(name):
    config = read(name)
    assert config["model"]["name"] in NAMES
    check_model(config["model"])
    settings = {key: value for key, value in config["model"].items() if key != "name"}
    count = num_parameters(json.dumps(settings, sort_keys=True))
    if name in PUBLISHED_PARAMETERS:
        assert round(count / 1e6, 2) == PUBLISHED_PARAMETERS[name]


def test_published_experiments_are_there():
    assert set(PUBLISHED_PARAMETERS) < set(OC20)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_metrics_fit_the_outputs(name):
    config = read(name)
    targets = set(config["outputs"])
    assert {target for loss in config["loss_functions"] for target in loss} == targets
    assert all("coefficient" in settings for loss in config["loss_functions"] for settings in loss.values())
    metrics = config["evaluation_metrics"]["metrics"]
    assert set(metrics) <= targets | {"misc"}
    names = {f"{target}_{metric}" for target in metrics for metric in metrics[target]}
    assert config["evaluation_metrics"]["primary_metric"] in names
    model = config.get("model", {})
    assert ("name" in model) == (name not in FINETUNE)
    assert model.get("regress_forces", True) == ("forces" in targets)
    normalizer = config["dataset"]["train"].get("transforms", {}).get("normalizer", {})
    assert set(normalizer) == (targets if name in OC20 else targets & set(normalizer))


@pytest.mark.parametrize("name", [name for name in CONFIGS if "s2ef" in name])
def test_models_of_forces_can_relax(name):
    check_relaxation(read(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_learning_rate_follows_the_file(name):
    optim = read(name)["optim"]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = getattr(torch.optim, optim["optimizer"])([parameter], lr=optim["lr_initial"])
    scheduler = LRScheduler(optimizer, optim)
    (factor,) = scheduler.scheduler.lr_lambdas
    assert scheduler.get_lr() == pytest.approx(optim["lr_initial"] * optim["warmup_factor"])
    assert factor(optim["warmup_steps"]) == 1
    for number, step in enumerate(optim["lr_milestones"]):
        assert factor(step - 1) == pytest.approx(optim["lr_gamma"] ** number)
        assert factor(step) == pytest.approx(optim["lr_gamma"] ** (number + 1))


@pytest.mark.parametrize("name", OC20)
def test_batch_and_decays_are_those_of_the_comment(name):
    text, optim = Path(name).read_text(), read(name)["optim"]
    each, gpus, batch = map(int, BATCH.search(text).groups())
    assert each == optim["batch_size"]
    assert each * gpus == batch
    decays = DECAYS.search(text)
    if decays is None:
        assert "published steps" in text
        return
    steps_per_epoch = int(decays[1].replace(",", "")) / batch
    epochs = [float(epoch) for epoch in decays[2].split(",")]
    if epochs == [5, 7, 9, 11]:
        assert optim["lr_milestones"] == [round(epoch * steps_per_epoch) for epoch in epochs]
    else:
        assert epochs == [round(step / steps_per_epoch, 2) for step in optim["lr_milestones"]]
    # A checkpoint is written every eval_every steps only: little may be left when training ends.
    total = optim["max_epochs"] * steps_per_epoch
    assert total % optim.get("eval_every", steps_per_epoch) < 0.01 * total


def test_2m_is_the_published_file():
    old = {**PUBLISHED_T4_B2, "dataset": dict(PUBLISHED_T4_B2["dataset"][0]), "loss_functions": {}}
    old, ours = update_config(old), read("configs/s2ef/2M/scn-t4-b2.yml")
    assert ours["model"] == old["model"]
    assert ours["optim"] == {key: old["optim"][key] for key in ours["optim"]}
    assert ours["loss_functions"] == old["loss_functions"]
    train_set = ours["dataset"]["train"]
    assert train_set["src"] == old["dataset"]["src"]
    assert ours["dataset"]["val"] == PUBLISHED_T4_B2["dataset"][1]
    assert train_set["transforms"] == old["dataset"]["transforms"]
    assert train_set["key_mapping"] == old["dataset"]["key_mapping"]
    for key, value in old["outputs"]["forces"].items():
        assert ours["outputs"]["forces"][key] == value


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("configs/s2ef/2M/scn-t4-b2.yml", "s2ef"),
        ("configs/s2ef/all/scn-all-md.yml", "s2ef"),
        ("configs/is2re/10k/scn-t1-b1.yml", "is2re"),
    ],
)
def test_trains(name, data, data_sets, tmp_path, quiet):
    source = data_sets / data / ("data.lmdb" if data == "is2re" else "")
    sources = {f"dataset.{split}.src": source for split in ("train", "val")}
    assert train(name, tmp_path, **sources) == 0
    assert len(list(tmp_path.glob("checkpoints/*/best_checkpoint.pt"))) == 1


@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["direct", "derived"])
def test_models_of_forces_learn_relaxed_energies(data_sets, tmp_path, quiet, settings):
    """They begin with the energies that they had, in the checkpoint's scale, and lose their forces."""
    config, before = "configs/is2re/example/finetune.yml", tmp_path / "s2ef.pt"
    torch.save(to_fairchem1(trained(**settings)), before)
    sources = {f"dataset.{split}.src": data_sets / "is2re" for split in ("train", "val", "test")}
    assert train(config, tmp_path, finetune=str(before), **sources, **{"optim.lr_initial": 1e-12}) == 0
    (after,) = tmp_path.glob("checkpoints/*/best_checkpoint.pt")
    assert not any("force" in name for name in torch.load(after, weights_only=False)["state_dict"])
    atoms, energies = fcc111("Cu", (2, 2, 2), vacuum=6.0, periodic=True), []
    for path in (before, after):
        (found,) = SCNCalculator(path, device="cpu").predict([atoms])
        energies.append(found["energy"])
    assert "forces" not in found
    assert energies[1] == pytest.approx(energies[0], abs=1e-5)
    words = ["--mode", "validate", "--config-yml", config, "--cpu", "--run-dir", str(tmp_path)]
    words += [f"--{key}={value}" for key, value in sources.items()]
    assert main([*words, "--checkpoint", str(after)]) == 0


def test_old_layout_trains(data_sets, tmp_path, quiet):
    old = {
        **PUBLISHED_T4_B2,
        "dataset": [{**part, "src": str(data_sets / "s2ef")} for part in PUBLISHED_T4_B2["dataset"]],
        "optim": {**PUBLISHED_T4_B2["optim"], "eval_every": 1},  # the data are few
    }
    name = tmp_path / "old.yml"
    name.write_text(yaml.safe_dump(old))
    check_run({**read(name), "mode": "train"})
    assert train(name, tmp_path) == 0
    assert len(list(tmp_path.glob("checkpoints/*/best_checkpoint.pt"))) == 1
