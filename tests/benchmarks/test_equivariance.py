"""The benchmarks' commands, with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import equivariance
from benchmarks.equivariance_rows import ROLL_TAPS
from benchmarks.store import ROOT
from ocp_scn import SphericalChannelNetwork
from tests import HANG

TINY = {
    "lmax": 2,
    "num_interactions": 1,
    "sphere_channels": 4,
    "sphere_channels_reduce": 4,
    "hidden_channels": 8,
    "num_basis_functions": 4,
    "num_sphere_samples": 8,
    "cutoff": 3.0,
    "distance_resolution": 0.5,
}
WORDS = ["--structures", "2", "--rotations", "1", "--draws", "2", "--seeds", "1"]


def run_equivariance(folder: Path, *words: str) -> list[dict]:
    """Run the command in an empty folder, where no data set is, and return its records."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.equivariance", *WORDS, "--results", "out.json", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| orders | taps |" in done.stdout
    assert "wrote out.json" in done.stdout
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_equivariance(tmp_path: Path) -> None:
    """Initial weights and then a checkpoint are measured, and one file holds the records of both."""
    records = run_equivariance(tmp_path, "--model", *(f"{key}={value}" for key, value in TINY.items()))
    assert records[0]["data"] == "made slabs"
    rotations = [record for record in records if record["kind"] == "rotations"]
    assert {(r["mmax"], r["taps"], r["bands"]) for r in rotations} == {(0, 1, b) for b in (0, 1, 2)} | {
        (m, t, b) for m in (1, 2) for t in (1, 4, 8) for b in (0, 1, 2)
    }
    assert all(0 <= record[key] < float("inf") for record in rotations for key in equivariance.FIGURES)

    settings = TINY | {"mmax": 1, "max_num_neighbors": 20}
    state = SphericalChannelNetwork(**settings).state_dict()
    checkpoint = {
        "config": {"model": {"name": "scn", **settings}},
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "normalizers": {"energy": {"mean": torch.tensor(1.0), "rmsd": torch.tensor(2.0)}},
    }
    torch.save(checkpoint, tmp_path / "weights.pt")
    both = run_equivariance(tmp_path, "--checkpoint", "weights.pt")
    assert both[: len(records)] == records
    own = both[len(records) :]
    assert {record["weights"] for record in own} == {"weights.pt"}
    assert own[1]["row"] == "as trained"
    assert own[1]["moved_forces"] == 0
    assert [r["eval_taps"] for r in own if r["kind"] == "rolls"] == list(ROLL_TAPS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "'nowhere' does not exist"),
        (["--checkpoint", "nowhere.pt"], "--checkpoint nowhere.pt does not exist"),
        (["--checkpoint", __file__], "is not a checkpoint of fairchem"),
        (["--checkpoint", __file__, "--model", "lmax=3"], "--model goes with initial weights only"),
        (["--model", "lamx=3"], "did you mean 'lmax'"),
        (["--model", "lmax"], "expected KEY=VALUE"),
        (["--model", "lmax=1"], "model setting mmax=2; expected 0..1"),
        (["--model", "mmax=1"], "the rows of the table set mmax"),
        (["--structures", "1"], "--structures 1; expected at least 2"),
    ],
)
def test_bad_input_of_equivariance(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input ends with status 2 and one line on standard error."""
    assert equivariance.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
