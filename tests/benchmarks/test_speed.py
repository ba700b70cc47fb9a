"""The measurements of speed run, on a slab of six atoms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.store import ROOT
from tests import HANG


def run(name: str, results: Path, *words: str) -> tuple[str, Any]:
    """Run a benchmark; return what it printed and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--repeats", "1", "--results", str(results), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads(results.read_text())


@pytest.mark.slow
def test_speed_compares_with_fairchem(tmp_path):
    models = ["ours t1-b1", "fairchem t1-b1"]
    words = ["--atoms", "6", "--calls", "training", "--models", *models]
    printed, records = run("speed", tmp_path / "speed.json", *words)
    assert {(r["model"], r["call"]) for r in records} == {(model, "training") for model in models}
    assert all(r["seconds"] > 0 and r["bytes"] > 0 for r in records)
    ours, theirs = (next(r for r in records if r["model"] == model) for model in models)
    assert ours["parameters"] == theirs["parameters"]
    assert 0 < ours["fraction"] < 1
    assert f"{theirs['seconds'] / ours['seconds']:.2f}" in printed


@pytest.mark.slow
def test_scaling_measures_atoms_batches_and_ranks(tmp_path):
    words = ["--atoms", "6", "--size", "6", "--batch-sizes", "1", "--ranks", "2", "--threads", "1"]
    printed, found = run("scaling", tmp_path / "scaling.json", *words)
    assert [r["atoms"] for r in found["atoms"]] == [6]
    assert [(r["call"], r["batch_size"]) for r in found["batch_size"]] == [("inference", 1), ("training", 1)]
    assert [r["ranks"] for r in found["ranks"]] == [2]
    assert all(r["seconds"] > 0 for series in ("atoms", "batch_size", "ranks") for r in found[series])
    assert "ms per atom" in printed


@pytest.mark.slow
def test_startup_measures_both_command_lines(tmp_path):
    printed, found = run("startup", tmp_path / "startup.json")
    measured = {(r["task"], r["command"]): r["seconds"] for r in found["records"]}
    assert {("--help", "ours"), ("--help", "fairchem"), ("first step", "ours")} <= set(measured)
    assert measured["first step", "ours"] > 0
    assert "| first step | ours |" in printed
