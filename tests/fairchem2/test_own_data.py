"""From a user's own calculations to a training of fairchem-core 2, by two commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core._cli import get_hydra_config_from_yaml
from omegaconf import OmegaConf

from ocp_scn import SCNConfig
from ocp_scn.data.__main__ import main
from ocp_scn.data.count import count_frames
from ocp_scn.data.frames import find_files
from tests.calculations import write_calculations
from tests.fairchem2.conftest import ROOT, losses


def composed(path: Path) -> dict[str, Any]:
    return OmegaConf.to_container(get_hydra_config_from_yaml(str(path), []), resolve=True)["runner"]


def convert(folder: Path, frames: int, *words: str, **kind: object) -> Path:
    source = write_calculations(folder / "mine.extxyz", frames, **kind)
    assert main(["convert", str(source), str(folder / "out"), "--format", "aselmdb", *words]) == 0
    return folder / "out/train.yaml"


def test_the_configuration_is_that_of_the_example(tmp_path):
    """But for the data, their scales, and what follows from their number."""
    found, known = composed(convert(tmp_path, 30)), composed(ROOT / "configs/fairchem2/s2ef/example.yaml")
    for loader in ("train_dataloader", "eval_dataloader"):
        for runner in (found, known):
            data = runner[loader].pop("dataset")["dataset_configs"]["oc20"]
            assert runner[loader]["batch_sampler_fn"].pop("max_atoms") < 80
            (source,) = data.pop("splits").values()
            assert Path(source["src"]).name in ("train", "val")
            runner[loader] |= data
            runner[loader].pop("collate_fn")
        assert found[loader] == known[loader]
    units = [runner["train_eval_unit"] for runner in (found, known)]
    for unit in units:
        for task in unit["tasks"]:
            task["normalizer"].pop("rmsd")
        unit["tasks"][0]["normalizer"].pop("mean")
        unit["tasks"][0]["element_references"].pop("file")
        unit["cosine_lr_scheduler_fn"].pop("milestones")
        unit.pop("job_config")
        settings = unit["model"].pop("backbone")
        assert settings.pop("model") == "ocp_scn.fairchem.v2.SCNBackbone"
        settings["max_num_neighbors"] = 20
        unit["settings"] = SCNConfig.from_settings(settings)
        unit["model"].pop("pass_through_head_outputs", None)
    assert units[0] == units[1]
    for runner in (found, known):
        runner["callbacks"][-1].pop("checkpoint_every_n_steps")  # as often as it is evaluated
    assert found["callbacks"] == known["callbacks"]


def test_without_enough_frames_the_training_set_is_evaluated(tmp_path, capsys):
    """And the file says so."""
    path = convert(tmp_path, 5)
    assert "no validation: 5 frames are too few" in capsys.readouterr().out
    settings = yaml.safe_load(path.read_text())
    assert settings["val_src"] == settings["train_src"] == str(tmp_path / "out/train")
    assert "There is no validation set" in path.read_text()


def test_energies_alone(tmp_path):
    runner = composed(convert(tmp_path, 20, "--labels", "energy", labels=("energy",)))
    unit = runner["train_eval_unit"]
    assert [task["property"] for task in unit["tasks"]] == ["energy"]
    assert unit["model"]["backbone"]["regress_forces"] is False


def test_numbers_of_a_data_set(tmp_path, capsys):
    """Of all of its splits; the frames are counted beforehand for the time that is left."""
    folder = convert(tmp_path, 30).parent
    assert main(["stats", str(folder)]) == 0
    assert "30 frames, 1 systems, 120 atoms" in capsys.readouterr().out
    assert count_frames(find_files(folder)) == 30


@pytest.mark.slow
def test_convert_and_train(command, tmp_path):
    """The command that convert prints last trains, with an override; the loss falls."""
    source = write_calculations(tmp_path / "mine.extxyz", 30)
    words = ["-m", "ocp_scn.data", "convert", source, tmp_path / "mine", "--format", "aselmdb"]
    printed = command(*words).stdout
    words = shlex.split(printed.splitlines()[-1].removeprefix("next: ocp-scn "))
    more = (f"job.run_dir={tmp_path / 'run'}", "job.device_type=CPU", "max_steps=80", "print_every=1")
    found = losses(command("-m", "ocp_scn_cli", *words, *more, "--verbose"))
    first, last = ([float(found[step][0]) for step in steps] for steps in (range(10), range(70, 80)))
    assert sum(last) < 0.5 * sum(first)
    assert list((tmp_path / "run").glob("*/checkpoints/final/inference_ckpt.pt"))
    (report,) = (tmp_path / "run").glob("*/report/report.html")
    assert "The loss of 80 steps" in report.read_text()
    assert f"ocp-scn report {report.parents[1]}" in report.read_text()
