"""What ``ocp-scn`` prints of runs of fairchem-core 2, and what it keeps in run.log and beside it."""

from __future__ import annotations

import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ocp_scn_cli import main
from tests.fairchem2.conftest import TINY, Run

pytestmark = pytest.mark.slow
CONFIGS = "configs/fairchem2"
Done = subprocess.CompletedProcess[str]


def lines(text: str) -> list[str]:
    """Return the lines that were printed, without those of C++."""
    return [line for line in text.splitlines() if not line.startswith("Warp ")]


def refused(done: Done) -> str:
    """Return the line with which a run was refused, of a status 2 and no traceback."""
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = lines(done.stderr)
    assert line.startswith("error: ")
    return line


def settings(sample: Path, run_dir: Path, **more: object) -> list[str]:
    """Return the words of a training of the tiny model, of two steps."""
    given = {
        "train_src": sample / "s2ef/train",
        "val_src": sample / "s2ef/val",
        "job.run_dir": run_dir,
        "+job.timestamp_id": "run",
        "max_epochs": "null",
        "runner.max_steps": 2,
        "evaluate_every_n_steps": 2,
        "print_every": 1,
        **{f"++model.backbone.{name}": value for name, value in TINY.items()},
        **more,
    }
    return [f"{name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def trained(command: Run, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """What a training printed, and its folder."""
    run_dir = tmp_path_factory.mktemp("quiet")
    words = ["train", "--config", f"{CONFIGS}/s2ef/example.yaml", *settings(sample, run_dir)]
    return command("-m", "ocp_scn_cli", *words), run_dir / "run"


def test_a_training_prints_what_a_person_needs(trained: tuple[Done, Path]) -> None:
    """Lines of the run, model, data, one an evaluation, and what comes next; all else is in the log."""
    done, folder = trained
    checkpoint = folder / "checkpoints/final/inference_ckpt.pt"
    begins = ["run     run (train), log in ", "model   SCNModel, ", "data    train 110, val 14 systems",
              "step 2 of 2: oc20_energy_mae: ", f"trained {checkpoint}", "next    ocp-scn predict --config ",
              f"next    ocp-scn report {folder}"]  # fmt: skip
    printed = lines(done.stdout)
    assert [line[: len(begin)] for line, begin in zip(printed, begins, strict=True)] == begins
    assert checkpoint.is_file()
    assert str(folder / "run.log") in printed[0]
    assert " on the CPU (threads: 1)" in printed[1]
    assert all(part in printed[3] for part in ("oc20_forces_mae: ", "loss: ", " gone, 00:00 left"))
    (warned,) = lines(done.stderr)
    assert warned.startswith("warning: the normalizer's energy mean of ")

    log = (folder / "run.log").read_text()
    fairchems = ("Running fairchemv2 cli with", "'train/step': 1,", "val/atoms_per_second", "FutureWarning")
    for text in (*fairchems, *printed, warned.removeprefix("warning: ")):
        assert text in log
    packages = (folder / "versions.txt").read_text().splitlines()
    assert f"torch=={version('torch')}" in packages
    assert f"{CONFIGS}/s2ef/example.yaml" in packages[0]
    assert (folder / "canonical_config.yaml").is_file()


def test_what_comes_next_is_printed_as_it_runs(
    trained: tuple[Done, Path], command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prediction, here with everything that its log has, and the report."""
    predict, report = (shlex.split(line)[2:] for line in lines(trained[0].stdout)[-2:])
    done = command("-m", "ocp_scn_cli", *predict, f"job.run_dir={tmp_path}", "--verbose")
    (path,) = tmp_path.glob("*/run.log")
    log = path.read_text().splitlines()
    assert any("Running fairchemv2 cli with" in line for line in log)
    assert any("wrote   " in line for line in log)
    assert set(log) <= set((done.stdout + done.stderr).splitlines())
    assert main(report) == 0
    assert "| val | model |" in capsys.readouterr().out


def test_an_evaluation_says_what_came_out(trained: tuple[Done, Path], sample: Path, command: Run, tmp_path):
    words = [f"checkpoint={trained[1]}/checkpoints/final/inference_ckpt.pt", f"job.run_dir={tmp_path}"]
    words = ["validate", "--config", f"{CONFIGS}/s2ef/evaluate.yaml", "job.device_type=CPU", *words]
    printed = lines(command("-m", "ocp_scn_cli", *words, f"src={sample / 's2ef/val'}").stdout)
    begins = ["run     ", "model   SCNModel, ", "data    val 14 systems", "val     oc20_energy_mae: "]
    assert [line[: len(begin)] for line, begin in zip(printed, begins, strict=True)] == begins
    # The same as at the end of the training.
    assert printed[3].removeprefix("val     ") in lines(trained[0].stdout)[3]
    done = command("-m", "ocp_scn_cli", *words, "src=nowhere", ok=False)
    assert refused(done) == "error: src='nowhere' has no structures; expected a folder of *.aselmdb"


def test_refusals_of_ranks_are_one_line(sample: Path, command: Run, tmp_path: Path) -> None:
    """Their tracebacks are in the log."""
    words = settings(sample, tmp_path, lr=-1, **{"job.scheduler.ranks_per_node": 2})
    done = command("-m", "ocp_scn_cli", "train", "--config", f"{CONFIGS}/s2ef/example.yaml", *words, ok=False)
    assert "optimizer_fn.lr=-1; expected a number above 0" in refused(done)
    for name in ("run.log", "run-rank1.log"):
        assert "InputError: runner." in (tmp_path / "run" / name).read_text()


def test_nothing_is_kept_of_what_is_refused(tmp_path: Path, monkeypatch, capfd) -> None:
    """A run on a GPU that there is not; and the package's configurations are found from any folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = ["checkpoint=none.pt", "src=none", "results=none.npz"]
    assert main(["predict", "--config", f"{CONFIGS}/predict.yaml", *words]) == 2
    assert "job.device_type=CUDA with 1 rank(s) needs as many GPUs, but 0" in lines(capfd.readouterr().err)[0]
    assert not list(tmp_path.iterdir())
