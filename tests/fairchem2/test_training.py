"""Training, resuming, evaluating and predicting with fairchem's command, as a user runs it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ocp_scn.data.aselmdb import read_rows
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FEW_STEPS, fairchem, losses

pytestmark = pytest.mark.slow
CONFIGS = ROOT / "configs/fairchem2"


def metrics(done) -> dict[str, float]:
    """Return the metrics that a run printed last."""
    text = (done.stdout + done.stderr).rsplit("Finished aggregating metrics", 1)[1]
    found = re.findall(r"val/oc20\.val,(\w+,\w+): ([-\d.]+)", text)
    return {name: float(value) for name, value in found}


def predict(checkpoint: Path, src: Path, results: Path, *words: object) -> dict[str, np.ndarray]:
    fairchem(
        CONFIGS / "predict.yaml",
        "job.device_type=CPU",
        f"job.run_dir={results.parent / 'run'}",
        f"checkpoint={checkpoint}",
        f"src={src}",
        f"results={results}",
        *words,
    )
    return dict(np.load(results))


def test_a_resumed_training_has_the_losses_of_an_uninterrupted_one(trained):
    """To the last digit, random rolls of the edge frames included."""
    run, expected = trained
    assert sorted(expected) == list(range(8))
    assert len({loss for of_step in expected.values() for loss in of_step}) == 8
    resumed = losses(fairchem(run / "checkpoints/step_4/resume.yaml"))
    assert resumed == {step: loss for step, loss in expected.items() if step >= 4}


def test_a_training_that_is_done_is_refused(trained):
    """Its last checkpoint stays as it is."""
    run, _ = trained
    path = run / "checkpoints/final/inference_ckpt.pt"
    before = path.read_bytes()
    done = fairchem(run / "checkpoints/final/resume.yaml", ok=False)
    assert done.returncode != 0
    assert "nothing is left to train: the training is at epoch" in done.stdout + done.stderr
    assert "(step 8), and max_steps=8; raise it" in done.stdout + done.stderr
    assert path.read_bytes() == before


def test_two_ranks(train, tmp_path):
    """Each has its losses, and again after the training was resumed."""
    expected = losses(train(tmp_path, *FEW_STEPS, "job.scheduler.ranks_per_node=2"))
    assert [len(set(of_step)) for of_step in expected.values()] == [2] * 8
    assert (tmp_path / "train/checkpoints/final/inference_ckpt.pt").is_file()
    resumed = losses(fairchem(tmp_path / "train/checkpoints/step_4/resume.yaml"))
    assert resumed == {step: loss for step, loss in expected.items() if step >= 4}


def test_evaluation_and_predictions_agree_with_the_training(checkpoint, sample, train, tmp_path):
    """Metrics of a checkpoint are those of the predictions, by one rank or two."""
    evaluated = metrics(
        fairchem(
            CONFIGS / "s2ef/evaluate.yaml",
            "job.device_type=CPU",
            f"job.run_dir={tmp_path / 'evaluate'}",
            f"checkpoint={checkpoint}",
            f"src={sample / 's2ef/val'}",
        )
    )
    found = predict(checkpoint, sample / "s2ef/val", tmp_path / "one.npz")
    again = predict(checkpoint, sample / "s2ef/val", tmp_path / "two.npz", "job.scheduler.ranks_per_node=2")
    truth = labels(sample / "s2ef/val")
    assert found["ids"].tolist() == sorted(truth)
    forces = np.split(found["forces"], found["chunk_idx"])
    assert found["energy"].shape == (len(truth), 1)
    for name, energy, of_system in zip(found["ids"], found["energy"], forces, strict=True):
        assert of_system.shape == truth[name][1].shape, (name, energy)
    energy_mae = np.mean(
        [abs(e - truth[n][0]) for n, e in zip(found["ids"], found["energy"][:, 0], strict=True)]
    )
    forces_mae = np.abs(found["forces"] - np.concatenate([truth[n][1] for n in found["ids"]])).mean()
    assert energy_mae == pytest.approx(evaluated["oc20_energy,mae"], abs=1e-4)
    assert forces_mae == pytest.approx(evaluated["oc20_forces,mae"], abs=1e-4)
    assert again["ids"].tolist() == found["ids"].tolist()
    assert np.allclose(again["energy"], found["energy"], atol=1e-5)
    assert np.allclose(again["forces"], found["forces"], atol=1e-5)


def test_relaxed_energies_on_two_ranks(train, sample, tmp_path):
    """Trained and evaluated by two processes, and the metric is that of the predictions."""
    data = sample / "is2re/train"
    two = "job.scheduler.ranks_per_node=2"
    expected = losses(train(tmp_path, *FEW_STEPS, "max_atoms=60", two, f"val_src={data}", task="is2re"))
    assert [len(set(of_step)) for of_step in expected.values()] == [2] * 8
    checkpoint = tmp_path / "train/checkpoints/final/inference_ckpt.pt"
    # Two batches; of an odd number, fairchem gives one to both ranks and counts it twice.
    words = ("job.device_type=CPU", f"checkpoint={checkpoint}", f"src={data}", "max_atoms=80")
    evaluated = [
        metrics(
            fairchem(CONFIGS / "is2re/evaluate.yaml", *words, f"job.run_dir={tmp_path / str(ranks)}", more)
        )
        for ranks, more in ((1, "num_workers=0"), (2, two))
    ]
    found = predict(checkpoint, data, tmp_path / "found.npz")
    truth = {str(row["sid"]): row["y_relaxed"] for _, row in read_rows(sorted(data.glob("*.aselmdb")))}
    assert found["ids"].tolist() == sorted(truth)
    mae = np.mean([abs(e - truth[name]) for name, e in zip(found["ids"], found["energy"][:, 0], strict=True)])
    for of_ranks in evaluated:
        assert of_ranks["oc20_energy,mae"] == pytest.approx(mae, abs=1e-4)


def test_a_validation_set_that_is_too_small_for_the_ranks_ends_at_the_start(train, sample, tmp_path):
    """The documented words of fairchem, before any step."""
    with pytest.raises(AssertionError, match="less batches than ranks"):
        train(tmp_path, *FEW_STEPS, "max_atoms=1000", "job.scheduler.ranks_per_node=2", task="is2re")


def labels(folder: Path) -> dict[str, tuple[float, np.ndarray]]:
    """Return energy and forces on free atoms of each structure by its id."""
    found = {}
    for atoms, data in read_rows(sorted(folder.glob("*.aselmdb"))):
        free = np.setdiff1d(np.arange(len(atoms)), atoms.constraints[0].index)
        forces = atoms.get_forces(apply_constraint=False)[free]
        found[f"{data['sid']}_{data['fid']}"] = (atoms.get_potential_energy(), forces)
    return found


def test_gradient_forces_are_trained(train, tmp_path):
    words = ("++model.backbone.num_sphere_samples=18", "model.backbone.cutoff=3.5", "energy_mean=0")
    done = train(tmp_path, *FEW_STEPS, *words, example="example-smooth")
    assert sorted(losses(done)) == list(range(8))
    assert (tmp_path / "train/checkpoints/final/inference_ckpt.pt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ema_decay=null",), "ema_decay is null"),
        (("max_atoms=12",), "structures have more than max_atoms=12 atoms"),
        (
            ("heads=conservative", "forces_rmsd=0.5"),
            "task 'oc20_forces' is a derivative of the energy, but its normalizer has mean 0.0 and rmsd 0.5",
        ),
        (("lr=-1",), "runner.train_eval_unit.optimizer_fn.lr=-1; expected a number above 0"),
        (("+model.backbone.lmx=3",), "unknown model setting 'lmx'; did you mean 'lmax'"),
    ],
)
def test_trainings_that_would_fail_late_are_refused_at_the_start(sample, tmp_path, words, message):
    done = fairchem(
        CONFIGS / "s2ef/example.yaml",
        f"job.run_dir={tmp_path}",
        f"train_src={sample / 's2ef/train'}",
        f"val_src={sample / 's2ef/val'}",
        *words,
        ok=False,
    )
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 2
    assert message in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("inference_ckpt.pt"))
