"""fairchem-core 2's own submission to a real SLURM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import HANG
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FEW_STEPS, TINY, losses

slurm = pytest.importorskip("tests.slurm.cluster")
pytestmark = pytest.mark.slow


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


def test_a_job_of_two_ranks_trains(cluster, sample, tmp_path):
    """The job finds the package in its environment, without a search path; both ranks train one model."""
    request = {"mem_gb": 2, "cpus_per_task": 1, "timeout_hr": 1}
    done = subprocess.run(
        [
            Path(sys.executable).with_name("fairchem"),
            "-c",
            ROOT / "configs/fairchem2/s2ef/example.yaml",
            "job.scheduler.mode=SLURM",
            "job.scheduler.ranks_per_node=2",
            f"job.run_dir={tmp_path}",
            "+job.timestamp_id=train",
            *[f"++job.scheduler.slurm.{name}={value}" for name, value in request.items()],
            *[f"++model.backbone.{name}={value}" for name, value in TINY.items()],
            f"train_src={sample / 's2ef/train'}",
            f"val_src={sample / 's2ef/val'}",
            "print_every=1",
            *FEW_STEPS,
        ],
        env={**cluster.environment, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    number = re.search(r"slurm id: (\d+)", done.stdout + done.stderr)[1]
    cluster.wait(number)
    logs = sorted((tmp_path / "train/logs").rglob(f"{number}_*_log.*"))
    assert len({path.name.split("_")[1] for path in logs}) == 2
    output = subprocess.CompletedProcess([], 0, "".join(path.read_text() for path in logs), "")
    assert sorted(losses(output)) == list(range(8))
    assert (tmp_path / "train/checkpoints/final/inference_ckpt.pt").is_file()
