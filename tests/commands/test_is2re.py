"""IS2RE predicted directly, and IS2RE and IS2RS by relaxation with a model of forces."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from fairchem.core.datasets import LmdbDataset
from torch_geometric.data import Data

from tests.commands.conftest import ENVIRONMENT, ROOT, Command, refused
from tests.samples import write_lmdb

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(scope="module")
def run(fairchem: Command, direct: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a direct training."""
    folder = tmp_path_factory.mktemp("is2re")
    fairchem("train", folder, "--timestamp-id", "direct", config_yml=direct)
    return folder


@pytest.fixture(scope="module")
def systems(sample: Path) -> list[Data]:
    """Eight initial structures without ``pbc``, the second with fixed atoms only."""
    systems = list(LmdbDataset({"src": str(sample / "is2re/train")}))
    for system in systems:
        del system.pbc
    systems[1].fixed = torch.ones_like(systems[1].fixed)
    return systems


@pytest.fixture(scope="module")
def words(systems: list[Data], best: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What relaxes them in four batches, some systems to fmax and some not."""
    folder = tmp_path_factory.mktemp("structures")
    write_lmdb(folder / "relax", systems)
    checkpoint = torch.load(best, weights_only=False)
    checkpoint["normalizers"]["forces"]["rmsd"] *= 3000.0  # a hardly trained model's forces are tiny
    torch.save(checkpoint, folder / "forceful.pt")
    settings = ["--optim.eval_batch_size=2", f"--task.relaxation_steps={STEPS}"]
    return ["--checkpoint", folder / "forceful.pt", f"--dataset.relax.src={folder / 'relax'}", *settings]


@pytest.fixture(scope="module")
def relaxed(fairchem: Command, run: Path, words: list[object]) -> Path:
    """The results of an uninterrupted relaxation."""
    output = fairchem("run-relaxations", run, "--timestamp-id", "whole", *words).stdout
    assert "is2rs_positions_average_distance_within_threshold: " in output
    assert "is2re_energy_mae: " in output
    return run / "results/whole"


def read(results: Path) -> dict[str, np.ndarray]:
    return dict(np.load(results / "relaxed_positions.npz"))


def test_every_system_is_relaxed_once(relaxed: Path, systems: list[Data]) -> None:
    file = read(relaxed)
    assert sorted(file["ids"]) == sorted(str(system.sid) for system in systems)
    assert np.isfinite(file["energy"]).all()
    positions = dict(zip(file["ids"], np.split(file["pos"], file["chunk_idx"]), strict=True))
    for number, system in enumerate(systems):
        moved = (positions[str(system.sid)] != system.pos.numpy()).any(axis=1)
        assert not moved[system.fixed.numpy() == 1].any()
        assert moved.any() == (number != 1)
    assert {path.name for path in relaxed.iterdir()} == {
        "config.yml",
        "run.log",
        "versions.txt",
        "relaxations.json",
        "relaxed_positions.npz",
        "trajectories",
    }


def test_trajectories_end_with_the_relaxed_structures(relaxed: Path, systems: list[Data]) -> None:
    file = read(relaxed)
    assert len(list((relaxed / "trajectories").iterdir())) == len(systems)
    split = np.split(file["pos"], file["chunk_idx"])
    for sid, positions, energy in zip(file["ids"], split, file["energy"], strict=True):
        frames = ase.io.read(relaxed / "trajectories" / f"{sid}.traj", ":")
        last = frames[-1]
        assert 1 <= len(frames) <= STEPS + 1
        assert (len(frames) == 1) == (sid == str(systems[1].sid))
        assert last.get_potential_energy() == energy
        assert np.array_equal(last.positions, positions)
        assert last.get_forces(apply_constraint=False).shape == positions.shape


def test_killed_relaxation_is_resumed(
    fairchem: Command,
    config: Path,
    systems: list[Data],
    relaxed: Path,
    words: list[object],
    tmp_path: Path,
) -> None:
    common = ["--timestamp-id", "killed", *words]
    results = tmp_path / "results/killed"
    line = ["main.py", "--mode", "run-relaxations", "--config-yml", config, "--cpu", "--run-dir", tmp_path]
    with subprocess.Popen(
        [sys.executable, *map(str, [*line, *common])],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not list(results.glob("relaxed_parts/*.npz")):
            time.sleep(0.002)
        process.kill()
    assert not (results / "relaxed_positions.npz").exists()
    # What a process killed at another moment leaves of its trajectories.
    for suffix in (".traj", ".traj_tmp"):
        (results / "trajectories" / f"{systems[-1].sid}{suffix}").write_bytes(b"")

    fairchem("run-relaxations", tmp_path, *common)
    whole, resumed = read(relaxed), read(results)
    assert set(whole) == set(resumed) == {"ids", "pos", "chunk_idx", "energy"}
    assert all(np.array_equal(whole[key], resumed[key]) for key in whole)
    names = {path.name for path in (results / "trajectories").iterdir()}
    assert names == {path.name for path in (relaxed / "trajectories").iterdir()}

    fairchem("run-relaxations", tmp_path, *common)  # nothing is left to do
    assert all(np.array_equal(whole[key], read(results)[key]) for key in whole)
    other = refused(fairchem("run-relaxations", tmp_path, *common, "--task.relaxation_fmax=0.5", ok=False))
    assert "fmax=0.05, not 0.5; choose another --timestamp-id" in other


def test_bad_relaxations(
    fairchem: Command, systems: list[Data], words: list[object], direct: Path, tmp_path: Path
) -> None:
    write_lmdb(tmp_path / "twice", [*systems[:2], systems[1]])
    twice = f"--dataset.relax.src={tmp_path / 'twice'}"
    done = fairchem("run-relaxations", tmp_path, *words, twice, ok=False)
    assert f"samples 1 and 2 both have sid '{systems[1].sid}'" in refused(done)
    assert not (tmp_path / "results").exists()
    named = fairchem("run-relaxations", tmp_path, *words, "--task.relax_opt.name=lbfgs", ok=False)
    assert "task.relax_opt has 'name'; expected maxstep," in refused(named)
    forceless = fairchem("run-relaxations", tmp_path, *words, config_yml=direct, ok=False)
    assert "needs a model of forces; outputs has energy" in refused(forceless)


def test_report(
    command: Command, fairchem: Command, run: Path, relaxed: Path, direct: Path, sample: Path
) -> None:
    best = run / "checkpoints/direct/best_checkpoint.pt"
    source = f"--dataset.test.src={sample / 'is2re/val'}"
    fairchem("predict", run, "--checkpoint", best, "--timestamp-id", "val", source, config_yml=direct)
    predictions = np.load(run / "results/val/ocp_predictions.npz")
    assert predictions["energy"].shape == (1, 1)
    output = command("-m", "ocp_scn.report", run).stdout
    first, second = output.split("IS2RE and IS2RS by relaxation")
    assert "IS2RE direct" in first
    assert "| val | model |" in first
    assert "| val | trivial |" in first
    assert "| position MAE [Å] | ADwT [%] |" in second
    assert "| relax | trivial |" in second
    for name in ("loss_is2re", "parity_is2re_val", "parity_relaxation_relax"):
        assert (run / "report" / f"{name}.png").stat().st_size > 0
