"""What a training takes of the checkpoint that it begins with (``--finetune``), and what is refused."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fairchem.core.common.flags import flags

from ocp_scn.errors import InputError
from ocp_scn.fairchem.training_data import elements_of
from ocp_scn.fairchem.v1 import finetuning
from ocp_scn.fairchem.v1.launcher import load_config
from ocp_scn.fairchem.v1.trainer import SCNTrainer
from ocp_scn.trained import to_fairchem1
from tests.commands.conftest import ROOT
from tests.fairchem.test_normalization import AGREE, MODEL, OUTPUTS, source, trainer  # noqa: F401  # a fixture
from tests.test_calculator import trained

SETTINGS = {key: value for key, value in MODEL.items() if key != "name"}
DIRECT = {"direct_forces": True, "regress_stress": False}
REFERENCES = [0.5 * number for number in range(100)]
FINETUNE = "configs/s2ef/example/finetune.yml"


def write(path: Path, **changes: Any) -> Path:
    """Write a checkpoint; keywords are fields of ``Trained``, or settings."""
    fields = {key: changes.pop(key) for key in ("normalizers", "references", "elements") if key in changes}
    torch.save(to_fairchem1(replace(trained(**{**SETTINGS, **changes}), **fields)), path)
    return path


def weights(of: SCNTrainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in of._unwrapped_model.parameters()]


def begun(run: Path, source: str, checkpoint: Path, normalizer: Any = None, **changes: Any) -> SCNTrainer:  # noqa: F811
    """Return a trainer that has begun with a checkpoint."""
    one = trainer(run, normalizer, source, **changes)
    finetuning.begin(one, str(checkpoint))
    return one


def test_the_averaged_weights_alone_are_taken(source: str, tmp_path: Path) -> None:  # noqa: F811
    """A training that goes on has optimiser, step and schedule too."""
    optim = {"optimizer": "AdamW", "lr_initial": 1e-2, "batch_size": 2, "num_workers": 0, "max_epochs": 3}
    optim |= {"lr_milestones": [100], "lr_gamma": 0.1, "warmup_steps": 3, "warmup_factor": 0.2}
    optim |= {"ema_decay": 0.9, "eval_every": 2}
    first = trainer(tmp_path / "first", AGREE, source, optimizer=optim)
    first.train()
    path = Path(first.save())
    averaged = first.ema.shadow_params
    assert any(not torch.equal(a, b) for a, b in zip(averaged, weights(first), strict=True))
    one = begun(tmp_path / "second", source, path, AGREE, optimizer=optim)
    assert all(torch.equal(a, b) for a, b in zip(averaged, weights(one), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(averaged, one.ema.shadow_params, strict=True))
    assert (one.step, one.epoch, one.best_val_metric) == (0, 0, trainer(tmp_path, AGREE).best_val_metric)
    assert one.optimizer.state_dict()["state"] == {}
    assert one.scheduler.get_lr() == pytest.approx(0.2 * 1e-2)
    assert first.scheduler.get_lr() > one.scheduler.get_lr()


SCALES = {"energy": (-6.0, 2.25), "forces": (0.0, 2.25)}
OF_DIRECT = {"energy": (-6.0, 2.25), "forces": (0.0, 0.5)}


@pytest.mark.parametrize(
    ("settings", "fields", "normalizer", "references", "expected"),
    [
        ({}, {"normalizers": SCALES}, None, False, [(-6, 2.25), (0, 2.25), (0, 2.25)]),
        ({}, {"normalizers": SCALES}, AGREE, False, [(-6.07, 2.26), (0, 2.26), (0, 2.26)]),
        ({}, {"normalizers": SCALES}, {"energy": {"mean": 1, "rmsd": 3}}, False, [(1, 3), (0, 3), (0, 3)]),
        ({}, {"normalizers": SCALES}, None, True, [(0, 2.25), (0, 2.25), (0, 2.25)]),
        ({}, {"normalizers": SCALES, "references": REFERENCES}, None, False, [(-6, 2.25)] + 2 * [(0, 2.25)]),
        ({}, {"normalizers": {}}, None, False, [(0, 1), (0, 1), (0, 1)]),
        (DIRECT, {"normalizers": OF_DIRECT}, None, False, [(-6, 2.25), (0, 0.5)]),
        (DIRECT, {"normalizers": OF_DIRECT}, {"forces": {"mean": 0, "rmsd": 3}}, False, [(-6, 2.25), (0, 3)]),
    ],
    ids=["none", "own", "energy", "references", "checkpoint's references", "neither", "direct", "own forces"],
)  # fmt: skip
def test_whose_scales_hold(
    source: str,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    settings: dict,
    fields: dict,
    normalizer: Any,
    references: bool,
    expected: list,
) -> None:
    """Those of the configuration; else the checkpoint's, without a mean that references take the place of."""
    path = write(tmp_path / "checkpoint.pt", **settings, **fields)
    transforms: dict[str, Any] = {"normalizer": normalizer}
    if references:
        np.savez(tmp_path / "references.npz", coeff=2 * np.array(REFERENCES))
        transforms["element_references"] = {"energy": {"file": str(tmp_path / "references.npz")}}
    names = list(OUTPUTS)[: len(expected)]
    one = trainer(
        tmp_path / "run",
        normalizer,
        dataset={"train": {"src": source, "transforms": transforms}, "val": {}},
        model={**MODEL, **settings},
        outputs={name: OUTPUTS[name] for name in names},
        loss_functions=[{name: {"fn": "mae", "coefficient": 1}} for name in names],
    )
    with caplog.at_level(logging.INFO):
        finetuning.begin(one, str(path))
    one._check_derivatives()
    found = [(float(one.normalizers[name].mean), float(one.normalizers[name].rmsd)) for name in names]
    assert found == [pytest.approx(scale) for scale in expected]
    assert sum("Normalization in use" in record.message for record in caplog.records) == len(names)
    own, of_checkpoint = references, fields.get("references")
    assert ("energy" in one.elementrefs) == bool(own or of_checkpoint)
    if own or of_checkpoint:
        values = one.elementrefs["energy"].element_references.flatten()
        assert float(values[8]) == pytest.approx((2 if own else 1) * REFERENCES[8])
    whose = "configuration, which has some" if own else "checkpoint; the configuration has none"
    said = any(f"those of the {whose}" in record.message for record in caplog.records)
    assert said == ("energy" in one.elementrefs)


def test_new_elements_are_named_once(
    source: str,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    *known, new = sorted(elements_of(trainer(tmp_path, AGREE, source).train_dataset))
    path = write(tmp_path / "checkpoint.pt", normalizers=SCALES, elements=known)
    one = trainer(tmp_path / "run", None, source, task={finetuning.KEY: str(path)})
    with caplog.at_level(logging.WARNING):
        one.train()
    lines = [record.message for record in caplog.records if "the training data have" in record.message]
    assert len(lines) == 1
    saved = torch.load(tmp_path / "run/checkpoints/run/checkpoint.pt", weights_only=False)
    assert saved["config"]["trained_elements"] == sorted({*known, new})
    assert saved["config"]["task"][finetuning.KEY] == str(path)


def config(*words: object, finetune: object = None) -> dict[str, Any]:
    """Return the configuration of a command line."""
    args, overrides = flags.get_parser().parse_known_args(["--cpu", *map(str, words)])
    return load_config(Namespace(**vars(args), finetune=finetune and str(finetune)), overrides)


def test_the_model_is_that_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = write(tmp_path / "checkpoint.pt")
    train, own = ["--mode", "train", "--config-yml"], tmp_path / "own.yml"
    found = config(*train, FINETUNE, "--model.compute_dtype=bfloat16", finetune=path)
    assert found["model"] == {**trained(**SETTINGS).settings, "name": "ocp_scn", "compute_dtype": "bfloat16"}
    assert found["task"][finetuning.KEY] == str(path)
    own.write_text(yaml.safe_dump({**yaml.safe_load((ROOT / FINETUNE).read_text()), "model": found["model"]}))
    assert config(*train, own, finetune=path)["model"] == found["model"]
    for mode in ("validate", "predict", "run-relaxations"):
        model = config("--mode", mode, "--config-yml", FINETUNE, "--checkpoint", path)["model"]
        assert model == {**trained(**SETTINGS).settings, "name": "ocp_scn"}


@pytest.mark.parametrize("settings", [{}, DIRECT], ids=["derived", "direct"])
def test_a_model_of_forces_may_lose_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    """But one without forces gets none."""
    monkeypatch.chdir(ROOT)
    path = write(tmp_path / "checkpoint.pt", **settings)
    words = ["--mode", "train", "--config-yml", "configs/is2re/example/finetune.yml"]
    model = config(*words, finetune=path)["model"]
    rest = {key: value for key, value in trained(**SETTINGS).settings.items() if key not in DIRECT}
    assert model == {**rest, "name": "ocp_scn", "regress_forces": False}
    torch.save(to_fairchem1(trained(regress_forces=False)), path)
    assert config(*words, finetune=path)["model"]["regress_forces"] is False
    with pytest.raises(InputError, match="has a model of regress_forces=False, and the configuration of"):
        config(*words, "--model.regress_forces=True", finetune=path)


REFUSED = {
    r"has a model of lmax=2, max_num_neighbors=-1, and the configuration of lmax=3, max_num_neighbors=20": {
        "words": ["--model.lmax=3", "--model.max_num_neighbors=20"]
    },
    r"unknown model setting 'lmx'": {"words": ["--model.lmx=3"]},
    r"is of ocp_scn, and model.name is 'schnet'": {"words": ["--model.name=schnet"]},
    r"--checkpoint other.pt goes on with one; expected one of them": {"words": ["--checkpoint", "other.pt"]},
    r"begins a training, and --mode is validate": {"mode": "validate"},
    r"--finetune .*missing.pt does not exist": {"name": "missing.pt"},
    r"--checkpoint .*typo.pt does not exist": {
        "mode": "predict",
        "words": ["--checkpoint", "typo.pt"],
        "name": None,
    },
    r"task.finetune=3; expected the path": {"words": ["--task.finetune=3"], "name": None},
    r"--finetune .*text.pt is not a checkpoint": {"name": "text.pt"},
    r"--finetune .*other.pt: it is of the model 'schnet'": {"name": "other.pt"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.chdir(ROOT)
    case = REFUSED[message]
    write(tmp_path / "checkpoint.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    other = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    other["config"]["model"]["name"] = "schnet"
    torch.save(other, tmp_path / "other.pt")
    words = ["--mode", case.get("mode", "train"), "--config-yml", FINETUNE, *case.get("words", [])]
    name = case.get("name", "checkpoint.pt")
    with pytest.raises(InputError, match=message):
        config(*words, finetune=name and tmp_path / name)
