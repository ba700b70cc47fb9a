"""Trainings that are killed or cannot write: what is on disk stays whole, and a training goes on from it."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests import HANG
from tests.commands.conftest import ENVIRONMENT, ROOT, Command, refused
from tests.commands.test_modes import losses

pytestmark = pytest.mark.slow

KILLS = 20
SAVE_EVERY = 2  # steps
SETTINGS = ["--timestamp-id", "run", "--print-every", "1", f"--optim.checkpoint_every={SAVE_EVERY}",
            "--optim.batch_size=4", "--optim.eval_every=14", "--optim.max_epochs=10"]  # fmt: skip


def train(words: list[str]) -> None:
    """Run ``main.py``; the process has imported what that needs before it was forked."""
    from ocp_scn.fairchem.v1.launcher import main

    torch.set_num_threads(1)
    sys.exit(main(words))


def start(config: Path, run: Path) -> BaseProcess:
    """Start the training in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ocp_scn.fairchem.v1.launcher"])
    words = ["--mode", "train", "--config-yml", str(config), "--cpu", "--run-dir", str(run), *SETTINGS]
    process = context.Process(target=train, args=(words,))
    process.start()
    return process


def kill_at_random(process: BaseProcess, folder: Path, chance: random.Random) -> None:
    """Kill a training while it loads, between saves, or in a save."""
    kind = chance.choice(["early", "between", "in a save", "in a save"])
    if kind == "early":
        time.sleep(chance.uniform(0, 1.5))
    else:
        part = folder / ".checkpoint.pt.part"
        for _ in range(chance.randint(1, 3)):
            while part.exists() and process.is_alive():  # one that an earlier kill or the save before left
                pass
            while not part.exists() and process.is_alive():
                pass
        time.sleep(chance.uniform(0, 0.1 if kind == "between" else 0.003))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def first_steps(run: Path) -> list[int]:
    """Return the step that each start of the training said to begin with, where it came to log it."""
    files = sorted((run / "logs/tensorboard/run").iterdir(), key=lambda file: file.stat().st_mtime)
    events = (event for file in files for event in EventFileLoader(str(file)).Load())
    return [event.step for event in events if event.HasField("session_log")]


def test_killed_training_goes_on_from_a_whole_checkpoint(config: Path, tmp_path: Path) -> None:
    """Killed at random, also while it saves: no save is torn or lost, and the end is the same."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    folder, chance = killed / "checkpoints/run", random.Random(0)
    reference = start(config, whole)
    saved, torn, beginnings = 0, 0, []
    for _ in range(KILLS):
        beginnings.append(saved + 1)
        process = start(config, killed)
        kill_at_random(process, folder, chance)
        torn += (folder / ".checkpoint.pt.part").exists()
        if (folder / "checkpoint.pt").exists():
            step = torch.load(folder / "checkpoint.pt", weights_only=False)["step"]
            assert step >= saved
            assert step % SAVE_EVERY == 0
            saved = step
    assert torn >= KILLS // 6  # or the saves themselves were not hit
    beginnings.append(saved + 1)
    last = start(config, killed)
    for process in (last, reference):
        process.join()
        assert process.exitcode == 0
    expected = iter(beginnings)  # those killed early logged nothing
    assert all(step in expected for step in first_steps(killed))
    assert losses(killed, "run") == losses(whole, "run")
    states = [
        torch.load(run / "checkpoints/run/checkpoint.pt", weights_only=False) for run in (killed, whole)
    ]
    for name, weights in states[0]["state_dict"].items():
        assert torch.equal(weights, states[1]["state_dict"][name])
    assert states[0]["best_val_metric"] == states[1]["best_val_metric"]


def test_full_disk(config: Path, tmp_path: Path) -> None:
    """One line, no torn file; the checkpoint from before stays."""
    command = f"""
        mount -t tmpfs -o size=600k none {tmp_path} || exit 77
        {sys.executable} main.py --mode train --config-yml {config} --cpu \\
            --run-dir {tmp_path} --timestamp-id run
        status=$?
        cp {tmp_path}/checkpoints/run/checkpoint.pt "$1"
        ls -A {tmp_path}/checkpoints/run
        exit $status
    """
    kept = config.with_name("kept.pt")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command, "sh", kept],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("small file systems cannot be mounted here")
    assert "checkpoint.pt cannot be written: a write failed, with 0.0 MiB free" in refused(done)
    assert not re.search(r"^\S*\.part\S*$", done.stdout, re.MULTILINE)  # in the folder; the log names some
    assert torch.load(kept, weights_only=False)["step"] > 0


def test_unwritable_run_folder(fairchem: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(fairchem("train", tmp_path / "file", ok=False))
    assert "file/checkpoints" in line
    assert line.endswith("cannot be made: Not a directory")
