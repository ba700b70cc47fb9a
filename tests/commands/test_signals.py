"""SIGTERM and Ctrl-C while a command works: one line, the shell's status, no file half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from tests import HANG
from tests.commands.conftest import ENVIRONMENT, ROOT, Command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ctrl_c")]

# main.py, whose batches take a second each; ranks read this file too.
SLOW = """
import os, sys, time
from pathlib import Path
from ocp_scn.fairchem.v1.launcher import main
from ocp_scn.fairchem.v1.trainer import SCNTrainer

forward = SCNTrainer._forward

def slow(trainer, batch):
    found = forward(trainer, batch)
    Path(os.environ["STARTED"]).touch()
    time.sleep(1)
    return found

SCNTrainer._forward = slow
if __name__ == "__main__":
    sys.exit(main())
"""


def end(words: list[object], number: signal.Signals, seen: Path, log: Path) -> str:
    """Start a command, end it by a signal once a path is there; return what it printed."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "STARTED": str(seen)},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    limit = time.monotonic() + HANG
    while not seen.exists():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < limit
        time.sleep(0.01)
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)  # as a terminal does
    assert process.wait(HANG) == 128 + number, log.read_text()[-3000:]
    printed = log.read_text()
    assert "Traceback" not in printed
    assert printed.count(f"ended by {number.name}: ") == 1
    return printed


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("mode", "number", "ranks"),
    [("validate", signal.SIGINT, 1), ("predict", signal.SIGTERM, 2), ("run-relaxations", signal.SIGINT, 2)],
)
def test_modes(
    fairchem: Command,
    config: Path,
    best: Path,
    sample: Path,
    tmp_path: Path,
    mode: str,
    number: signal.Signals,
    ranks: int,
) -> None:
    """Data are loaded by processes of their own; relaxations go on with what is left."""
    (tmp_path / "slow.py").write_text(SLOW)
    run, source = tmp_path / "run", sample / ("is2re" if mode == "run-relaxations" else "s2ef") / "train"
    split = {"validate": "val", "predict": "test", "run-relaxations": "relax"}[mode]
    words = ["--checkpoint", best, "--timestamp-id", "run", f"--dataset.{split}.src={source}"]
    words += ["--optim.eval_batch_size=1", "--optim.num_workers=1", "--num-gpus", ranks]
    start = [tmp_path / "slow.py", "--mode", mode, "--config-yml", config, "--cpu", "--run-dir", run]
    printed = end([*start, *words], number, tmp_path / "started", tmp_path / "log")
    left = files(run / "results/run")
    assert left.isdisjoint({"ocp_predictions.npz", "relaxed_positions.npz"})
    if mode != "run-relaxations":
        assert "nothing is written, and the same command begins anew" in printed
        assert left <= {"config.yml", "run.log", "run-rank1.log", "versions.txt"}
        return
    assert "the same command with this run's --timestamp-id goes on" in printed
    assert len(list((run / "results/run/relaxed_parts").iterdir())) >= 1
    fairchem(mode, run, *words)
    done = files(run / "results/run")
    assert "relaxed_positions.npz" in done
    assert len([name for name in done if name.endswith(".traj")]) == 8
    assert not [name for name in done if name.endswith("_tmp")]


@pytest.mark.parametrize(("work", "number"), [("predict", signal.SIGINT), ("convert", signal.SIGTERM)])
def test_files(best: Path, tmp_path: Path, work: str, number: signal.Signals) -> None:
    atoms = molecule("CO", calculator=EMT())
    atoms.get_forces()
    ase.io.write(tmp_path / "one.extxyz", atoms)
    (tmp_path / "in.extxyz").write_text((tmp_path / "one.extxyz").read_text() * 5000)
    (tmp_path / "out").mkdir()
    words, seen = {
        "predict": (["predict", best, "in.extxyz", "-o", "out/p.extxyz"], ".p.extxyz.part"),
        "convert": (["data", "convert", "in.extxyz", "out/set"], ".set.part"),
    }[work]
    paths = [tmp_path / word if str(word).startswith(("in", "out")) else word for word in words]
    printed = end(["-m", "ocp_scn_cli", *paths], number, tmp_path / "out" / seen, tmp_path / "log")
    assert "no file is half written, and the same command begins anew" in printed
    assert not list((tmp_path / "out").iterdir())
