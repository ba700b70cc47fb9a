"""The modes of ``main.py``: train, resume, validate, predict; one process and two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands.conftest import Command

pytestmark = pytest.mark.slow


def losses(run: Path, name: str) -> dict[int, float]:
    """Return the training loss of every step of a run."""
    events = EventAccumulator(str(run / "logs" / "tensorboard" / name), size_guidance={"scalars": 0}).Reload()
    return {scalar.step: scalar.value for scalar in events.Scalars("train/loss")}


def test_training_saves_averages_and_logs(trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints/train/checkpoint.pt", weights_only=False)
    assert checkpoint["ema"]["decay"] == 0.99
    assert checkpoint["config"]["model"]["name"] == "ocp_scn"
    curve = losses(trained, "train")
    assert checkpoint["step"] == max(curve) == len(curve)
    events = EventAccumulator(str(trained / "logs/tensorboard/train")).Reload()
    assert "train/grad_norm" in events.Tags()["scalars"]  # clipping is on
    assert "val/forces_mae" in events.Tags()["scalars"]


def test_resumed_training_has_the_loss_curve_of_an_uninterrupted_one(
    trained: Path, fairchem: Command, tmp_path: Path
) -> None:
    common = ["--timestamp-id", "train", "--print-every", 1]
    # Loading data in processes of its own changes nothing either.
    fairchem("train", tmp_path, *common, "--optim.max_epochs=1", "--optim.num_workers=2")
    first = losses(tmp_path, "train")
    fairchem("train", tmp_path, *common, "--checkpoint", tmp_path / "checkpoints/train/checkpoint.pt")
    whole, resumed = losses(trained, "train"), losses(tmp_path, "train")
    assert 0 < len(first) < len(whole)
    assert resumed == whole
    weights = [
        torch.load(run / "checkpoints/train/checkpoint.pt", weights_only=False)["state_dict"]
        for run in (trained, tmp_path)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_evaluations_give_identical_bits(trained: Path, best: Path, fairchem: Command) -> None:
    files, reports = [], []
    for name in ("one", "two"):
        fairchem("predict", trained, "--checkpoint", best, "--timestamp-id", name)
        files.append(np.load(trained / "results" / name / "ocp_predictions.npz"))
        done = fairchem("validate", trained, "--checkpoint", best, "--timestamp-id", f"validate-{name}")
        lines = done.stdout.splitlines()
        reports.append([line for line in lines if "energy_mae: " in line])
    assert set(files[0]) == {"energy", "forces", "ids", "chunk_idx"}
    assert files[0]["energy"].dtype == np.float32
    for key in files[0]:
        assert np.array_equal(files[0][key], files[1][key])
    assert len(reports[0]) == 1
    assert reports[0] == reports[1]


def test_evaluation_needs_no_training_data(trained: Path, best: Path, fairchem: Command) -> None:
    words = ["--checkpoint", best, "--timestamp-id", "no-train", "--dataset.train.src=elsewhere"]
    fairchem("predict", trained, *words)
    assert (trained / "results/no-train/ocp_predictions.npz").is_file()


def test_two_ranks_train_like_one_with_their_batches(
    trained: Path, fairchem: Command, tmp_path: Path
) -> None:
    """The losses are the same; that batches are balanced is asked for, which is refused without sizes."""
    words = ["--num-gpus", 2, "--timestamp-id", "train", "--print-every", 1, "--optim.batch_size=8"]
    fairchem("train", tmp_path, *words, "--optim.load_balancing=atoms")
    logs = [tmp_path / "checkpoints/train" / name for name in ("run.log", "run-rank1.log")]
    assert all("Created BalancedBatchSampler" in log.read_text() for log in logs)
    assert not any("uniform partitioning" in log.read_text() for log in logs)
    checkpoint = torch.load(tmp_path / "checkpoints/train/checkpoint.pt", weights_only=False)
    assert all(name.startswith("module.") for name in checkpoint["state_dict"])
    assert losses(tmp_path, "train") == pytest.approx(losses(trained, "train"), rel=1e-5)


def test_offline_wandb_logger(fairchem: Command, tmp_path: Path) -> None:
    words = ["--timestamp-id", "wandb", "--optim.max_epochs=1", "--logger=wandb"]
    fairchem("train", tmp_path, *words, WANDB_MODE="offline", WANDB_SILENT="true")
    assert list((tmp_path / "logs/wandb/wandb").rglob("*.wandb"))


def test_two_runs_at_once_get_folders_of_their_own(fairchem: Command, tmp_path: Path) -> None:
    for _ in range(2):
        fairchem("train", tmp_path, "--identifier", "same", "--optim.max_epochs=1")
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert len(names) == 2
    assert all("same" in name for name in names)


def test_report_compares_with_the_trivial_predictors(
    trained: Path, best: Path, command: Command, fairchem: Command, sample: Path
) -> None:
    words = ["--checkpoint", best, "--timestamp-id", "report", f"--dataset.test.src={sample / 's2ef/val'}"]
    fairchem("predict", trained, *words)
    output = command("-m", "ocp_scn.report", trained).stdout
    assert "| val | trivial |" in output
    for name in ("loss_s2ef.png", "parity_s2ef_val.png", "metrics.json"):
        assert (trained / "report" / name).stat().st_size > 0


def test_amp_is_for_gpus(trained: Path, fairchem: Command, tmp_path: Path) -> None:
    """With ``--cpu`` it changes no bit: fairchem's autocast and scaler are those of GPUs."""
    fairchem("train", tmp_path, "--timestamp-id", "train", "--print-every", 1, "--amp")
    assert losses(tmp_path, "train") == losses(trained, "train")


def test_compute_dtype_is_a_setting_of_every_mode(trained: Path, best: Path, fairchem: Command) -> None:
    """A checkpoint predicts in another precision than that of its training; TF32 is float32 on a CPU."""
    forces = {}
    for name in ("float32", "tf32", "bfloat16"):
        words = ["--checkpoint", best, "--timestamp-id", name, f"--model.compute_dtype={name}"]
        fairchem("predict", trained, *words)
        forces[name] = np.load(trained / "results" / name / "ocp_predictions.npz")["forces"]
    assert np.array_equal(forces["tf32"], forces["float32"])
    error = np.abs(forces["bfloat16"] - forces["float32"]).mean()
    assert 0 < error < 0.02 * np.abs(forces["float32"]).mean()
