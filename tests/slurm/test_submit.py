"""``main.py --submit`` on a real SLURM: what jobs train, and what they do when interrupted or failing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch_geometric.data import Data

from tests.commands.conftest import refused
from tests.commands.test_bad_input import structure
from tests.samples import write_lmdb
from tests.slurm.cluster import NODES, Cluster, until
from tests.slurm.conftest import Submit, job_numbers

pytestmark = pytest.mark.slow

COMMON = ["--timestamp-id", "run", "--print-every", 1]
# Two ranks whose data are loaded in further processes, which SLURM signals too.
PAIR = [*COMMON, "--optim.batch_size=2", "--optim.num_workers=1", "--optim.max_epochs=3"]
STEPS = 84


def logged(run: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    """Return (step, value) of all that a run has ever logged, in that order."""
    files = sorted((run / "logs/tensorboard/run").iterdir())
    events = (event for file in files for event in EventFileLoader(str(file)).Load())
    return [(e.step, v.tensor.float_val[0]) for e in events for v in e.summary.value if v.tag == tag]


def output(run: Path, number: str, rank: int = 0, kind: str = "out") -> str:
    """Return what a rank of a job has written so far."""
    path = run / "jobs" / number / f"{number}_{rank}_log.{kind}"
    return path.read_text() if path.exists() else ""


def log(run: Path) -> str:
    """Return what a run's log has so far."""
    path = run / "checkpoints/run/run.log"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def limited(submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder and number of a job of one task, longer than its limit of one minute.

    It evaluates after every step, so that it may be interrupted in a step or in an evaluation.
    """
    run = tmp_path_factory.mktemp("limited")
    words = [*COMMON, "--optim.batch_size=4", "--optim.eval_every=1", "--optim.max_epochs=100000"]
    # A warning 90 s before the end, as is usual, would be one before the beginning.
    words += ["--slurm.time=1", "--slurm.signal=USR2@10", f"--slurm.nodelist={NODES[1]}"]
    return run, job_numbers(submit(run, *words))[0]


@pytest.fixture(scope="module")
def whole(
    cluster: Cluster, submit: Submit, limited: object, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of an uninterrupted job with two tasks on one node."""
    run = tmp_path_factory.mktemp("whole")
    (number,) = job_numbers(submit(run, *PAIR, "--num-gpus", 2))
    cluster.wait(number)
    assert cluster.job(number)["NumNodes"] == "1"
    assert cluster.job(number)["NumTasks"] == "2"
    return run


def test_job_at_its_time_limit_goes_on(cluster: Cluster, whole: Path, limited: tuple[Path, str]) -> None:
    """It saves, is requeued, and goes on with the next step; nothing is logged twice."""
    run, number = limited
    until(lambda: cluster.job(number)["Restarts"] != "0", "the job is not requeued")
    saved = torch.load(run / "checkpoints/run/checkpoint.pt", weights_only=False)["step"]
    enough = max(saved, STEPS)
    until(lambda: log(run).count(" step: ") > enough, "the job does not go on")
    cluster.run("scancel", number)
    for tag in ("train/loss", "val/loss"):
        steps = [step for step, _ in logged(run, tag)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= enough
    assert saved > 0


def test_two_tasks_train_like_one_with_their_batches(whole: Path, limited: tuple[Path, str]) -> None:
    """Losses of two ranks are those of one with the doubled batch."""
    two, one = dict(logged(whole)), dict(logged(limited[0]))
    assert len(two) == STEPS
    assert two == pytest.approx({step: one[step] for step in two}, rel=1e-5)


def test_preempted_job_has_the_curve_of_an_uninterrupted_one(
    cluster: Cluster, submit: Submit, whole: Path, tmp_path: Path
) -> None:
    (number,) = job_numbers(submit(tmp_path, *PAIR, "--num-gpus", 2, f"--slurm.nodelist={NODES[0]}"))
    until(lambda: f"step: {5:.2e}" in log(tmp_path), "the job does not train")
    cluster.run("sbatch", "--partition=urgent", f"--nodelist={NODES[0]}", "--exclusive", "--time=1",
                "--output=/dev/null", "--wrap=true")  # fmt: skip
    until(lambda: cluster.job(number)["Restarts"] == "1", "the job is not requeued")
    cluster.wait(number)
    for tag in ("train/loss", "train/lr", "val/loss"):
        assert logged(tmp_path, tag) == logged(whole, tag)
    said = output(tmp_path, number, 0, "err") + output(tmp_path, number, 1, "err")
    # While a process ends, a data loader of torch may take its workers for another's; Python ignores that.
    assert said.count("Traceback") == said.count("Exception ignored in")


def test_two_nodes(cluster: Cluster, submit: Submit, whole: Path, tmp_path: Path) -> None:
    """They train together; interrupted while they import, they start again."""
    (number,) = job_numbers(submit(tmp_path, *PAIR, "--num-nodes", 2, "--optim.max_epochs=1"))
    until(lambda: "Loading pickle" in output(tmp_path, number), "the job does not start")
    cluster.run("scancel", "--signal=USR2", number)
    until(lambda: cluster.job(number)["Restarts"] == "1", "the job is not requeued")
    cluster.wait(number)
    assert cluster.job(number)["NodeList"] == "127.0.0.[1-2]"
    curve = logged(tmp_path)
    assert curve == logged(whole)[: len(curve)]


def test_sweep(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """A job array, whose elements share the host and have two ranks each."""
    rates = [0.001, 0.002]
    (tmp_path / "sweep.yml").write_text(yaml.safe_dump({"optim": {"lr_initial": rates}}))
    words = [*PAIR, "--num-gpus", 2, "--optim.max_epochs=1", "--sweep-yml", tmp_path / "sweep.yml"]
    first, second = job_numbers(submit(tmp_path, *words))
    assert (first.split("_")[0], first.split("_")[1], second.split("_")[1]) == (
        second.split("_")[0],
        "0",
        "1",
    )
    for number, rate in enumerate(rates):
        cluster.wait((first, second)[number])
        checkpoint = torch.load(tmp_path / f"checkpoints/run_run{number}/checkpoint.pt", weights_only=False)
        assert checkpoint["config"]["optim"]["lr_initial"] == rate
        assert checkpoint["step"] > 0


def test_failing_job_reports_its_error(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """One rank fails; the other does not wait for it."""
    samples: list[Data] = [structure(), structure(atomic_numbers=torch.tensor([6, 95]))]
    write_lmdb(tmp_path / "bad", samples)
    words = [*COMMON, "--num-gpus", 2, f"--dataset.train.src={tmp_path / 'bad'}", "--optim.batch_size=1"]
    (number,) = job_numbers(submit(tmp_path, *words))
    cluster.wait(number, "FAILED")
    errors = [output(tmp_path, number, rank, "err") for rank in (0, 1)]
    assert sum("InputError: atomic number 95" in text for text in errors) == 1


def test_request_for_gpus(submit: Submit, tmp_path: Path) -> None:
    """GPUs are asked for without ``--cpu`` alone; these nodes have none."""
    line = refused(submit(tmp_path, *COMMON, cpu=False))
    assert line == "error: SLURM did not take the job: Invalid generic resource (gres) specification"
    assert not (tmp_path / "checkpoints/run").exists()
