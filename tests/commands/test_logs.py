"""What a run prints, and what it keeps in run.log and beside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.commands.conftest import Command, refused

pytestmark = pytest.mark.slow


def test_a_training_prints_what_a_person_needs(fairchem: Command, tmp_path: Path) -> None:
    """Lines of the run, model, data, one an epoch, and the end; all else is in the log."""
    done = fairchem("train", tmp_path, "--timestamp-id", "train", "--print-every", 1)
    folder = tmp_path / "checkpoints/train"
    printed = done.stdout.splitlines()
    begins = ["run     train (train), log in ", "model   ocp_scn, ", "data    train ", "epoch 1 of 2: ",
              "epoch 2 of 2: ", "trained best_checkpoint.pt (forces_mae: "]  # fmt: skip
    assert [line[: len(begin)] for line, begin in zip(printed, begins, strict=True)] == begins
    assert str(folder / "run.log") in printed[0]
    assert all(f" {name} " in printed[2] for name in ("train", "val", "test"))
    assert all("energy_mae: " in line and " left" in line for line in printed[3:5])
    (warned,) = done.stderr.splitlines()
    assert warned.startswith("warning: the normalizer's energy mean of ")

    log = (folder / "run.log").read_text()
    fairchems = ("checkpoint_dir: ", ", step: 1.00e+00", "Disabled BalancedBatchSampler")
    for text in (*fairchems, *printed, warned.removeprefix("warning: ")):
        assert text in log
    assert yaml.safe_load((folder / "config.yml").read_text())["model"]["name"] == "ocp_scn"
    packages = (folder / "versions.txt").read_text().splitlines()
    assert f"torch=={version('torch')}" in packages
    assert "--print-every 1" in packages[0]


def test_verbose_prints_what_the_log_has(fairchem: Command, best: Path, tmp_path: Path) -> None:
    words = ["--timestamp-id", "run", "--checkpoint", best]
    done = fairchem("validate", tmp_path, *words, "--verbose")
    log = (tmp_path / "results/run/run.log").read_text().splitlines()
    assert any("checkpoint_dir: " in line for line in log)
    assert set(log) <= set((done.stdout + done.stderr).splitlines())


def test_a_run_goes_on_from_its_config(fairchem: Command, trained: Path, best: Path, tmp_path: Path) -> None:
    """The file is a configuration, of the data and settings that the run had."""
    config = trained / "checkpoints/train/config.yml"
    words = ["--timestamp-id", "again", "--checkpoint", best]
    done = fairchem("validate", tmp_path, *words, config_yml=config)
    assert "\nval     energy_mae: " in done.stdout


def test_errors_of_ranks_are_one_line(fairchem: Command, tmp_path: Path) -> None:
    """Their tracebacks are in the log."""
    words = ["--timestamp-id", "run", "--num-gpus", 2, "--optim.lr_initial=1e30"]
    done = fairchem("train", tmp_path, *words, ok=False)
    assert "the loss is not finite" in refused(done)
    assert "InputError: step " in (tmp_path / "checkpoints/run/run.log").read_text()


def test_nothing_is_kept_of_what_is_refused(fairchem: Command, tmp_path: Path) -> None:
    line = refused(fairchem("train", tmp_path, "--dataset.train.src=nowhere", ok=False))
    assert line == "error: dataset.train.src='nowhere' does not exist"
    assert not list(tmp_path.iterdir())
