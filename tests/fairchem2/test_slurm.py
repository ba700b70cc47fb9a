"""Jobs of fairchem-core 2 on a real SLURM, submitted by fairchem's own command and by ``ocp-scn``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ocp_scn_cli import main
from tests import HANG
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FEW_STEPS, TINY, losses

slurm = pytest.importorskip("tests.slurm.cluster")
pytestmark = pytest.mark.slow
OTHERS = ("submitit ", "Warp ", "srun: ", "slurmstepd-")  # what SLURM and libraries print
TRAIN = [sys.executable, "-m", "ocp_scn_cli", "train", "--config"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if slurm.missing():
        pytest.skip(f"no SLURM on this machine: {', '.join(slurm.missing())} missing")
    cluster = slurm.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def submit(cluster, sample):
    """Submit a training of the tiny model by a command; return its job's number, and what was printed."""

    def run(run_dir: Path, program: list[object], *words: object) -> tuple[str, str]:
        request = {"mem_gb": 2, "cpus_per_task": 1, "timeout_hr": 1}
        done = subprocess.run(
            [
                *map(str, program),
                ROOT / "configs/fairchem2/s2ef/example.yaml",
                "job.scheduler.mode=SLURM",
                f"job.run_dir={run_dir}",
                "+job.timestamp_id=train",
                *[f"++job.scheduler.slurm.{name}={value}" for name, value in request.items()],
                *[f"++model.backbone.{name}={value}" for name, value in TINY.items()],
                f"train_src={sample / 's2ef/train'}",
                f"val_src={sample / 's2ef/val'}",
                "print_every=1",
                *FEW_STEPS,
                *map(str, words),
            ],
            env={**cluster.environment, "OMP_NUM_THREADS": "1"},
            cwd=run_dir,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return re.search(r"(?:slurm id:|as job) (\d+)", done.stdout + done.stderr)[1], done.stdout

    return run


def output(run_dir: Path, number: str, rank: int = 0, kind: str = "out") -> list[str]:
    """Return the lines that a task of a job has printed so far, without those of OTHERS."""
    path = run_dir / f"train/logs/{number}_{rank}_log.{kind}"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith(OTHERS)]


def test_a_job_of_fairchems_command_trains(cluster, submit, tmp_path):
    """The job finds the package in its environment, without a search path; both ranks train one model."""
    fairchem = [Path(sys.executable).with_name("fairchem"), "-c"]
    number, _ = submit(tmp_path, fairchem, "job.scheduler.ranks_per_node=2")
    cluster.wait(number)
    logs = sorted((tmp_path / "train/logs").rglob(f"{number}_*_log.*"))
    assert len({path.name.split("_")[1] for path in logs}) == 2
    printed = subprocess.CompletedProcess([], 0, "".join(path.read_text() for path in logs), "")
    assert sorted(losses(printed)) == list(range(8))
    assert (tmp_path / "train/checkpoints/final/inference_ckpt.pt").is_file()


def test_a_job_prints_and_keeps_what_a_run_here_does(cluster, submit, tmp_path):
    """The first rank prints the run's lines; logs have the rest, of both ranks and of the submission."""
    number, printed = submit(tmp_path, TRAIN, "job.scheduler.ranks_per_node=2")
    assert printed == (
        f"submitted train (train) as job {number}, which prints to train/logs/{number}_0_log.out\n"
    )
    cluster.wait(number)
    begins = ["run     train (train), log in ", "model   SCNModel, ", "data    train 110, val 14 systems",
              "step 4 of 8: ", "step 8 of 8: ", "trained ", "next    ", "next    "]  # fmt: skip
    lines = output(tmp_path, number)
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins
    assert " on the CPU (threads: 1), 2 ranks" in lines[1]
    (warned,) = output(tmp_path, number, kind="err")
    assert warned.startswith("warning: the normalizer's energy mean of ")
    assert not output(tmp_path, number, rank=1) + output(tmp_path, number, rank=1, kind="err")
    log = (tmp_path / "train/run.log").read_text()
    for text in ("Running fairchemv2 cli with", "'train/step': 7,", *lines, warned.removeprefix("warning: ")):
        assert text in log
    assert "'train/step': 7," in (tmp_path / "train/run-rank1.log").read_text()
    assert "torch==" in (tmp_path / "train/versions.txt").read_text()


def test_faults_of_a_job_are_one_line(cluster, submit, tmp_path):
    """Of each rank that has one; their tracebacks are in the log."""
    number, _ = submit(tmp_path, TRAIN, "job.scheduler.ranks_per_node=2", "lr=-1")
    cluster.wait(number, "FAILED")
    printed = [output(tmp_path, number, rank, "err") for rank in (0, 1)]
    assert any(printed)
    pattern = r"error: .*optimizer_fn.lr=-1; expected a number above 0"
    assert all(len(lines) < 2 and all(re.match(pattern, line) for line in lines) for lines in printed)
    logs = [path.read_text() for path in (tmp_path / "train").glob("run*.log")]
    assert any("Traceback" in log and "InputError: runner." in log for log in logs)


def test_a_job_goes_on_quietly_after_an_interruption(cluster, submit, tmp_path):
    """And in the same log."""
    steps = ["runner.max_steps=40", "evaluate_every_n_steps=10"]
    number, _ = submit(tmp_path, TRAIN, *steps)
    slurm.until((tmp_path / "train/checkpoints/step_10/.metadata").exists, "the job does not train", HANG)
    cluster.run("scancel", "--signal=USR2", number)
    slurm.until(lambda: cluster.job(number)["Restarts"] == "1", "the job is not requeued")
    cluster.wait(number)
    lines = output(tmp_path, number)
    assert sum(line.startswith("run     train (train), log in ") for line in lines) == 2
    begins = "SLURM interrupts the job; requeued, it goes on from train/checkpoints/step_"
    assert sum(line.startswith(begins) for line in lines) == 1
    assert any(re.match(r"resumed after step \d+0 of 40", line) for line in lines)
    assert len(lines) < 20
    assert all(line.startswith("warning: ") for line in output(tmp_path, number, kind="err"))
    assert "'train/step': 39," in (tmp_path / "train/run.log").read_text()


def test_slurm_refuses_in_one_line(cluster, sample, tmp_path, monkeypatch, capfd):
    """What it says of a request; and what cannot be submitted, or comes too early."""
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(ROOT / "configs/fairchem2/s2ef/example.yaml"), "job.scheduler.mode=SLURM"]
    words += [f"job.run_dir={tmp_path}", f"train_src={sample / 's2ef/train'}"]

    def refused(*more: str) -> str:
        assert main(["train", *words, *more]) == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    assert "SLURM did not take the job: " in refused("job.device_type=CUDA")
    assert "--report does not go with job.scheduler.mode=SLURM; afterwards: " in refused("--report")
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "here")
    assert "fairchem submits no job from a job" in refused()
    monkeypatch.setenv("PATH", "")
    assert "job.scheduler.mode=SLURM needs SLURM, but there is no srun" in refused()
