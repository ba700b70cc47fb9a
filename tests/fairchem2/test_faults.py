"""Trainings that a signal, a number or the memory ends, on one rank and two: one line says so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import HANG
from tests.commands.conftest import ENVIRONMENT, ROOT, kill_second_rank
from tests.fairchem2.conftest import TINY

pytestmark = pytest.mark.slow
# ocp-scn with a model that, where it is evaluated, asks torch's allocator for more than any memory has.
LITTLE_MEMORY = """
import sys
import torch
from ocp_scn.fairchem.v2.backbone import SCNBackbone
from ocp_scn_cli import main

forward = SCNBackbone.forward

def greedy(backbone, data):
    return forward(backbone, data) if backbone.training else torch.empty(10**14)

SCNBackbone.forward = greedy
sys.exit(main(sys.argv[1:]))
"""
CONFIG = ROOT / "configs/fairchem2/s2ef/example.yaml"


@pytest.fixture
def start(sample, tmp_path):
    """Start an endless training by ``ocp-scn train``, which prints into a log; return process and log."""

    def run(ranks: int, *words: str):
        settings = {f"++model.backbone.{name}": value for name, value in TINY.items()}
        settings |= {"train_src": sample / "s2ef/train", "val_src": sample / "s2ef/val", "print_every": 1}
        settings |= {"job.run_dir": tmp_path, "+job.timestamp_id": "run", "max_epochs": "null"}
        settings |= {"runner.max_steps": 10**6, "evaluate_every_n_steps": 10**5, "max_atoms": 60}
        given = [f"{name}={value}" for name, value in settings.items()]
        given.append(f"job.scheduler.ranks_per_node={ranks}")
        log = tmp_path / "log"
        process = subprocess.Popen(
            [sys.executable, "-m", "ocp_scn_cli", "train", "--config", CONFIG, *given, *words],
            cwd=ROOT,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return process, log

    return run


def wait_for_step(process, log):
    end, kept = time.monotonic() + HANG, log.parent / "run/run.log"
    while not (kept.is_file() and "'train/step': 2," in kept.read_text()):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.05)


def refused(process, log):
    """Wait for the end with status 2; return the one line that says why."""
    assert process.wait(HANG) == 2, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_signals_save(start, tmp_path, number, ranks):
    """By SIGTERM to the command, by Ctrl-C to all its processes, also those that load data."""
    process, log = start(ranks, f"num_workers={2 - ranks}")
    wait_for_step(process, log)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    assert process.wait(HANG) == 128 + number, log.read_text()[-3000:]
    assert "Traceback" not in log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("ended by ")]
    saved = max((tmp_path / "run/checkpoints").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    assert (
        line
        == f"ended by {number.name}: saved in {saved}; ocp-scn train --config {saved / 'resume.yaml'} goes on"
    )
    assert (saved / "resume.yaml").is_file()


def test_a_rank_that_is_killed(start):
    process, log = start(2)
    wait_for_step(process, log)
    kill_second_rank(process)
    assert refused(process, log) == "error: rank 1 was killed by SIGKILL, as for want of memory"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("not_finite", "step 2: the loss or its gradient is not finite, in a batch of systems "),
        ("little_memory", "the memory is too small for a batch of "),
    ],
)
def test_a_fault_of_the_second_rank(start, kind, message):
    guard = "{_target_: ocp_scn.fairchem.v2.TrainingGuard, seed: 0}"
    fault = f"{{_target_: tests.fairchem2.faults.Fault, kind: {kind}}}"
    assert message in refused(*start(2, f"runner.callbacks=[{guard}, {fault}]"))


@pytest.mark.parametrize("work", ["train", "validate", "predict"])
def test_too_little_memory_where_a_model_is_evaluated(command, sample, checkpoint, tmp_path, work):
    settings = {"job.device_type": "CPU", "job.run_dir": tmp_path, "max_atoms": 60}
    if work == "train":
        settings |= {f"++model.backbone.{name}": value for name, value in TINY.items()}
        settings |= {"train_src": sample / "s2ef/train", "val_src": sample / "s2ef/val", "max_epochs": "null"}
        settings |= {"runner.max_steps": 4, "evaluate_every_n_steps": 2}
        config = CONFIG
    else:
        settings |= {"checkpoint": checkpoint, "src": sample / "s2ef/val"}
        settings |= {"results": tmp_path / "a.npz"} if work == "predict" else {}
        config = CONFIG.parents[1] / ("predict.yaml" if work == "predict" else "s2ef/evaluate.yaml")
    words = [f"{name}={value}" for name, value in settings.items()]
    done = command("-c", LITTLE_MEMORY, work, "--config", config, *words, ok=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the memory is too small for a batch of " in line
    assert re.search(r" systems, \d+ atoms, \d+ edges; lower max_atoms", line)
    assert not (tmp_path / "a.npz").exists()
