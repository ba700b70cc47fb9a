"""Fine-tuning as a command: what it is worth, and that it goes on after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import transfer
from tests.commands.conftest import ROOT, Command, refused
from tests.commands.test_modes import losses

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "configs/s2ef/example"
FINETUNE = EXAMPLE / "finetune.yml"
NORMALIZER = "--dataset.train.transforms.normalizer"
# Of both trainings on few frames: 40 steps.
SAME = ["--optim.max_epochs=20", "--optim.ema_decay=0.9", "--optim.warmup_steps=5", "--dataset.test=None"]
SAME += ["--optim.lr_milestones=[1000]", "--print-every", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("transfer")
    transfer.write_data(found, "lmdb")
    return found


def data(folder: Path, name: str) -> list[str]:
    references = f"--dataset.train.transforms.element_references.energy.file={folder / name}/references.npz"
    return [*(f"--dataset.{split}.src={folder / name / split}" for split in ("train", "val")), references]


@pytest.fixture(scope="module")
def begin_anew(fairchem: Command, folder: Path) -> Command:
    """Train the small model from nothing."""
    model = [f"--model.{name}={value}" for name, value in transfer.MODEL.items()]
    model += [f"{NORMALIZER}.{name}.{key}={value}" for name in ("energy", "forces")
              for key, value in (("mean", 0), ("stdev", transfer.RMSD))]  # fmt: skip

    def run(name: str, source: str, *words: object) -> None:
        common = ["--timestamp-id", name, *SAME, *data(folder, source), *model, *words]
        fairchem("train", folder, *common, config_yml=EXAMPLE / "scn.yml")

    return run


@pytest.fixture(scope="module")
def pretrained(begin_anew: Command, folder: Path) -> Path:
    begin_anew("many", "many", "--optim.max_epochs=12")
    return folder / "checkpoints/many/best_checkpoint.pt"


@pytest.fixture(scope="module")
def finetuned(fairchem: Command, folder: Path, pretrained: Path) -> tuple[Path, str]:
    """The folder of the runs, with one of the name ``fine``, and what that printed."""
    words = ["--timestamp-id", "fine", "--finetune", pretrained, *SAME, *data(folder, "few")]
    done = fairchem("train", folder, *words, config_yml=FINETUNE)
    return folder, done.stdout + done.stderr


def test_it_beats_a_training_from_nothing(
    begin_anew: Command, finetuned: tuple[Path, str], folder: Path
) -> None:
    """With the same few frames and as many steps, on frames that neither has seen."""
    begin_anew("none", "few")
    errors = {
        name: transfer.force_error(folder / f"checkpoints/{name}/best_checkpoint.pt")
        for name in ("fine", "none")
    }
    assert errors["fine"] < 0.5 * errors["none"], errors
    assert len(losses(folder, "fine")) == len(losses(folder, "none")) == 40
    printed = finetuned[1]
    assert "Normalization in use for output forces: mean 0.0 and rmsd 0.87, of the checkpoint;" in printed
    assert "Element references in use for output energy are those of the configuration" in printed
    assert printed.count("the training data have Pd, which the checkpoint was not trained on") == 1
    checkpoint = torch.load(folder / "checkpoints/fine/checkpoint.pt", weights_only=False)
    assert checkpoint["config"]["trained_elements"] == [28, 29, 46]


def test_it_goes_on_under_its_name(
    fairchem: Command, finetuned: tuple[Path, str], pretrained: Path, tmp_path: Path
) -> None:
    """With the loss curve of an uninterrupted one, also where the checkpoint that it began with is gone."""
    folder, _ = finetuned
    first = tmp_path / "pretrained.pt"
    first.write_bytes(pretrained.read_bytes())
    words = ["--timestamp-id", "fine", "--finetune", first, *SAME, *data(folder, "few")]
    fairchem("train", tmp_path, *words, "--optim.max_epochs=9", config_yml=FINETUNE)
    first.unlink()
    fairchem("train", tmp_path, *words, config_yml=FINETUNE)
    assert losses(tmp_path, "fine") == losses(folder, "fine")
    words[3] = pretrained
    line = refused(fairchem("train", tmp_path, *words, config_yml=FINETUNE, ok=False))
    assert f"which began with --finetune {first}, not {pretrained}" in line
    # The model's settings come from the checkpoint in every mode.
    words = ["--checkpoint", tmp_path / "checkpoints/fine/best_checkpoint.pt", *data(folder, "few")[:2]]
    done = fairchem("validate", tmp_path, "--timestamp-id", "check", *words, config_yml=FINETUNE)
    assert "forces_mae: " in done.stdout


def test_two_ranks_begin_with_the_same_weights(
    fairchem: Command, finetuned: tuple[Path, str], pretrained: Path, tmp_path: Path
) -> None:
    folder, _ = finetuned
    words = ["--timestamp-id", "fine", "--finetune", pretrained, *SAME, *data(folder, "few")]
    words += ["--num-gpus", 2, "--optim.batch_size=2", "--optim.max_epochs=2"]
    fairchem("train", tmp_path, *words, config_yml=FINETUNE)
    found, expected = losses(tmp_path, "fine"), losses(folder, "fine")
    assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-4)
    assert len(found) == 4
