"""Runs that a number, a signal or the memory ends: one line, and the last good checkpoint is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import HANG
from tests.commands.conftest import ENVIRONMENT, ROOT, Command, kill_second_rank, refused
from tests.commands.test_modes import losses

pytestmark = pytest.mark.slow

# main.py, whose fourth step predicts one force that is NaN.
ONE_NAN = """
import sys
from ocp_scn.fairchem.v1.launcher import main
from ocp_scn.fairchem.v1.trainer import SCNTrainer

forward = SCNTrainer._forward

def one_nan(trainer, batch):
    found = forward(trainer, batch)
    if trainer.step == 4:
        found["forces"] = found["forces"].index_fill(0, (batch.fixed == 0).nonzero()[0], float("nan"))
    return found

SCNTrainer._forward = one_nan
sys.exit(main(sys.argv[1:]))
"""
# main.py with a model that, in training or in evaluation, asks torch for more than any memory has.
LITTLE_MEMORY = """
import sys
import torch
from ocp_scn.fairchem.v1.launcher import main
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork

predict = SphericalChannelNetwork.predict

def greedy(model, *args, **options):
    return torch.empty(10**14) if model.training == {training} else predict(model, *args, **options)

SphericalChannelNetwork.predict = greedy
sys.exit(main(sys.argv[1:]))
"""
SETTINGS = ["--print-every", "1", "--optim.checkpoint_every=2", "--optim.batch_size=4"]


def test_one_force_that_is_nan(command: Command, fairchem: Command, config: Path, tmp_path: Path) -> None:
    words = ["--mode", "train", "--config-yml", config, "--cpu", "--timestamp-id", "run", *SETTINGS]
    line = refused(command("-c", ONE_NAN, *words, "--run-dir", tmp_path, ok=False))
    path = tmp_path / "checkpoints/run/checkpoint.pt"
    assert "step 4: the loss is not finite, in a batch of systems " in line
    assert f"the last checkpoint is {path}" in line
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["step"] == 2
    checkpoint["state_dict"]["module.sphere_embedding.weight"][3] = torch.nan
    torch.save(checkpoint, tmp_path / "nan.pt")
    for mode in ("train", "predict"):
        line = refused(fairchem(mode, tmp_path, "--checkpoint", tmp_path / "nan.pt", ok=False))
        assert "nan.pt has numbers that are not finite in 1 of" in line


@pytest.mark.parametrize(
    ("mode", "setting"),
    [("train", "batch_size=16"), ("train", "eval_batch_size=8"), ("predict", "eval_batch_size=8")],
)
def test_too_little_memory(
    command: Command, config: Path, best: Path, sample: Path, tmp_path: Path, mode: str, setting: str
) -> None:
    """In a step, in the evaluation of a training, and in one by itself."""
    words = ["--mode", mode, "--config-yml", config, "--cpu", "--run-dir", tmp_path, f"--optim.{setting}"]
    if mode == "predict":
        words += ["--checkpoint", best, f"--dataset.test.src={sample / 's2ef/train'}"]
    program = LITTLE_MEMORY.format(training=not setting.startswith("eval"))
    line = refused(command("-c", program, *words, ok=False))
    assert f"the memory is too small for a batch of {setting.split('=')[1]} systems, " in line
    assert " atoms, " in line
    assert line.endswith(f" edges; lower optim.{setting}")


def train(config: Path, run: Path, *words: str) -> subprocess.Popen[str]:
    """Start a training, in a process group of its own."""
    start = ["main.py", "--mode", "train", "--config-yml", str(config), "--cpu", "--run-dir", str(run)]
    return subprocess.Popen(
        [sys.executable, *start, "--timestamp-id", "run", "--optim.max_epochs=1000", *SETTINGS, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=(run / "log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str], log: Path, step: int) -> None:
    end = time.monotonic() + HANG
    while not log.exists() or f", step: {step:.2e}" not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("ranks", [1, 2])
def test_signals_save(config: Path, tmp_path: Path, ranks: int) -> None:
    """By SIGTERM to the command, then by Ctrl-C to all its processes; the losses are those of one run."""
    path, log = tmp_path / "checkpoints/run/checkpoint.pt", tmp_path / "checkpoints/run/run.log"
    steps = []
    for number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 60)):
        log.unlink(missing_ok=True)
        process = train(config, tmp_path, "--num-gpus", str(ranks))
        wait_for_step(process, log, step)
        (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
        assert process.wait(HANG) == 128 + number
        printed, text = (tmp_path / "log").read_text(), log.read_text()
        assert f"ended by {number.name}: saved in {path}; the same command with --timestamp-id run" in printed
        assert "Traceback" not in printed
        steps.append(torch.load(path, weights_only=False)["step"])
        assert f", step: {steps[-1]:.2e}" in text
        assert f", step: {steps[-1] + 1:.2e}" not in text
    assert steps[1] > steps[0]
    assert sorted(losses(tmp_path, "run")) == list(range(1, steps[1] + 1))


def test_a_rank_that_is_killed(config: Path, tmp_path: Path) -> None:
    process = train(config, tmp_path, "--num-gpus", "2")
    wait_for_step(process, tmp_path / "checkpoints/run/run.log", 1)
    kill_second_rank(process)
    assert process.wait(HANG) == 2
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert lines == ["error: rank 1 was killed by SIGKILL, as for want of memory"]
