"""Trainings that SLURM warns at the worst moment; tests/slurm has warnings at any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.commands.conftest import Command

pytestmark = pytest.mark.slow

# main.py in a job that is warned in a prediction of the test set, which follows better metrics. What submitit
# does then, save and end the process, is done here without it.
WARNED = """
import sys
from fairchem.core.trainers import OCPTrainer
from ocp_scn.fairchem.v1.interruption import interruption
from ocp_scn.fairchem.v1.launcher import main

predict = OCPTrainer.predict

def warned(trainer, *args, **options):
    def end(*_):
        trainer.save_between_steps()
        sys.exit(3)
    interruption.requested, interruption._handler = True, end
    return predict(trainer, *args, **options)

OCPTrainer.predict = warned
sys.exit(main(sys.argv[1:]))
"""


def validations(run: Path) -> list[tuple[int, float]]:
    """Return step and loss of every validation that any start of the training logged."""
    found = []
    for file in sorted((run / "logs/tensorboard/run").iterdir(), key=lambda file: file.stat().st_mtime):
        for event in EventFileLoader(str(file)).Load():
            values = [value for value in event.summary.value if value.tag == "val/loss"]
            found += [(event.step, value.tensor.float_val[0]) for value in values]
    return found


def test_warned_while_it_predicts_for_the_best_model(
    command: Command, fairchem: Command, config: Path, tmp_path: Path
) -> None:
    """The prediction is made again, the validation before it is not."""
    words = ["--timestamp-id", "run", "--optim.eval_every=2", "--optim.max_epochs=1"]
    start = ["-c", WARNED, "--mode", "train", "--config-yml", config, "--cpu"]
    done = command(*start, "--run-dir", tmp_path / "warned", *words, ok=False)
    assert done.returncode == 3, done.stderr[-3000:]
    before = validations(tmp_path / "warned")
    fairchem("train", tmp_path / "warned", *words)
    fairchem("train", tmp_path / "whole", *words)
    assert 0 < len(before) < len(validations(tmp_path / "whole"))
    assert validations(tmp_path / "warned") == validations(tmp_path / "whole")
    results = [np.load(next((tmp_path / run / "results").rglob("*.npz"))) for run in ("warned", "whole")]
    for key in ("ids", "energy", "forces"):
        assert np.array_equal(results[0][key], results[1][key])
