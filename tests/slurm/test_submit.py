"""``main.py --submit`` on a real SLURM: what jobs ask for, train, and do when they are interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.slurm.cluster import NODES, Cluster, until
from tests.slurm.conftest import Submit, job_numbers

pytestmark = pytest.mark.slow

# Two ranks that load their data in processes of their own.
PAIR = ["--num-gpus", 2, "--optim.batch_size=8", "--optim.num_workers=1", "--print-every", 1]
LENGTH = ["--optim.max_epochs=30", "--optim.eval_every=35"]


def logged(run: Path, name: str, tag: str = "train/loss") -> list[tuple[int, float]]:
    """Return (step, value) of everything that was ever logged, in that order."""
    found = []
    for file in sorted((run / "logs/tensorboard" / name).iterdir()):
        for event in EventFileLoader(str(file)).Load():
            found += [
                (event.step, value.tensor.float_val[0]) for value in event.summary.value if value.tag == tag
            ]
    return found


def output(run: Path, number: str, rank: int = 0, kind: str = "out") -> str:
    """Return what a rank of a job has written so far."""
    path = run / "jobs" / number / f"{number}_{rank}_log.{kind}"
    return path.read_text() if path.exists() else ""


def until_step(cluster: Cluster, run: Path, number: str, step: int, seconds: float = 120) -> None:
    """Wait until a job has logged a step."""
    printed = f"step: {step:.2e}"
    until(lambda: printed in output(run, number), seconds, f"job {number} does not reach step {step}")


@pytest.fixture(scope="module")
def whole(cluster: Cluster, submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted job with two tasks on one node."""
    run = tmp_path_factory.mktemp("whole")
    (number,) = job_numbers(submit(run, *PAIR, *LENGTH, "--timestamp-id", "pair"))
    cluster.wait(number)
    assert cluster.job(number)["NumTasks"] == "2"
    return run


def test_two_tasks(whole: Path) -> None:
    curve = logged(whole, "pair")
    print(curve[:10], len(curve))


def test_preempted(cluster: Cluster, submit: Submit, whole: Path, tmp_path: Path) -> None:
    words = [*PAIR, *LENGTH, "--timestamp-id", "pair", f"--slurm.nodelist={NODES[0]}"]
    (number,) = job_numbers(submit(tmp_path, *words))
    until_step(cluster, tmp_path, number, 5)
    cluster.run("sbatch", "--partition=urgent", f"--nodelist={NODES[0]}", "--exclusive", "--output=/dev/null",
                "--time=1", "--wrap=sleep 1")  # fmt: skip
    until(lambda: cluster.job(number)["Restarts"] == "1", 60, "the job is not requeued")
    cluster.wait(number)
    print(output(tmp_path, number, 0, "err"))
    print(output(tmp_path, number, 1, "err"))
    assert logged(tmp_path, "pair") == logged(whole, "pair")
    assert logged(tmp_path, "pair", "val/loss") == logged(whole, "pair", "val/loss")
