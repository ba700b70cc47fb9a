"""Trainings of fairchem-core 2 that begin with a checkpoint: what they take of it, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2 import finetuned_model, finetuned_normalizer, finetuned_references, load_tasks
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.trained import Trained, to_fairchem1
from ocp_scn_cli import main
from tests import transfer
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import fairchem, losses
from tests.test_calculator import NORMALIZERS, REFERENCES, SMOOTH, trained

CONFIGS = ROOT / "configs/fairchem2/s2ef"


def write(path: Path, network: Trained) -> str:
    torch.save(build(network, "mine"), path)
    return str(path)


@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["direct", "derived"])
def test_the_model_has_the_averaged_weights(tmp_path: Path, settings: dict) -> None:
    """And the checkpoint's settings, but for those by which its weights mean the same."""
    network = trained(**settings)
    averaged = {name: value + 1 for name, value in network.weights.items()}
    path = write(tmp_path / "a.pt", replace(network, averaged=averaged, elements=[8, 29]))
    model = finetuned_model(path, backbone={"compute_dtype": "bfloat16", "radius_pbc_version": 2})
    for name, weight in model.backbone.named_parameters():
        assert torch.equal(weight, averaged[name])
        assert weight.requires_grad
    assert model.backbone.known.numbers == {8, 29}
    config = OmegaConf.to_container(model.finetune_model_full_config)["backbone"]
    assert config == {**config, **network.settings, "compute_dtype": "bfloat16", "radius_pbc_version": 2}
    with pytest.raises(
        InputError, match=r"finetune=.*a.pt has a model of lmax=3, .* and the configuration of"
    ):
        finetuned_model(path, backbone={"lmax": 2, "cutoff": 4.0})
    with pytest.raises(InputError, match="unknown model setting 'lmx'"):
        finetuned_model(path, backbone={"lmx": 2})


@pytest.mark.parametrize("settings", [{}, SMOOTH], ids=["direct", "derived"])
def test_a_model_of_forces_may_lose_them(tmp_path: Path, settings: dict) -> None:
    network = trained(**settings)
    model = finetuned_model(write(tmp_path / "a.pt", network), backbone={"regress_forces": False})
    weights = dict(model.backbone.named_parameters())
    assert {name for name in network.averaged if name not in weights} == {
        name for name in network.averaged if name.startswith("force_head.")
    }
    assert all(torch.equal(weight, network.averaged[name]) for name, weight in weights.items())
    assert list(model.output_heads) == ["oc20_energy"]


def test_whose_scales_hold(tmp_path: Path) -> None:
    """Those of the configuration; else the checkpoint's, without a mean that references take the place of."""
    path = write(tmp_path / "a.pt", trained())
    with_references = write(tmp_path / "b.pt", replace(trained(), references=REFERENCES))
    file = str(tmp_path / "references.npz")
    np.savez(file, coeff=2 * np.array(REFERENCES))

    def scale(*arguments: object, **options: object) -> tuple[float, float]:
        found = finetuned_normalizer(*arguments, **options)
        return float(found.mean), float(found.rmsd)

    assert scale(path, "energy") == NORMALIZERS["energy"]
    assert scale(path, "forces") == NORMALIZERS["forces"]
    assert scale(path, "energy", rmsd=3) == (NORMALIZERS["energy"][0], 3)
    assert scale(path, "energy", mean=1, rmsd=3, references=file) == (1, 3)
    assert scale(path, "energy", references=file) == (0, NORMALIZERS["energy"][1])
    assert scale(with_references, "energy", references=file) == NORMALIZERS["energy"]
    assert finetuned_references(path) is None
    for found, factor in ((finetuned_references(with_references), 1), (finetuned_references(path, file), 2)):
        assert found.element_references[8].item() == pytest.approx(factor * REFERENCES[8])


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of fairchem 1 names the command that converts it; the command refuses before it starts."""
    one = tmp_path / "one.pt"
    torch.save(to_fairchem1(trained()), one)
    config = str(CONFIGS / "finetune.yaml")
    for argv, message in {
        (str(one), "--config", config): f"python -m ocp_scn.checkpoint convert {one} TARGET",
        (str(tmp_path / "missing.pt"), "--config", config): "missing.pt",
        (write(tmp_path / "a.pt", trained()), "--config", str(CONFIGS / "example.yaml")): "finetune",
        (write(tmp_path / "a.pt", trained()), "--config", config, "nonsense=1"): "nonsense",
    }.items():
        assert main(["finetune", *argv]) == 2
        printed = capsys.readouterr()
        (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert message in line
        assert "Traceback" not in printed.err


@pytest.mark.slow
def test_a_model_of_forces_learns_relaxed_energies(checkpoint: Path, sample: Path, tmp_path: Path) -> None:
    """In the checkpoint's scale, which the new one has too."""
    data = [f"{split}_src={sample / 'is2re' / split}" for split in ("train", "val")]
    run = [f"job.run_dir={tmp_path}", "+job.timestamp_id=run", "max_epochs=1", "print_every=1"]
    done = fairchem(CONFIGS.parent / "is2re/finetune.yaml", f"finetune={checkpoint}", *run, *data)
    assert len(losses(done)) > 1
    (before, _), (after,) = map(
        load_tasks, (checkpoint, tmp_path / "run/checkpoints/final/inference_ckpt.pt")
    )
    assert [after.normalizer.mean, after.normalizer.rmsd] == [before.normalizer.mean, before.normalizer.rmsd]


@pytest.mark.slow
def test_it_beats_a_training_from_nothing(tmp_path: Path) -> None:
    """With the same few frames and steps, on frames that neither has seen; and it goes on under its name."""
    transfer.write_data(tmp_path, "aselmdb")
    model = [f"model.backbone.{name}={value}" for name, value in transfer.MODEL.items()]
    model += [f"energy_rmsd={transfer.RMSD}", f"forces_rmsd={transfer.RMSD}", "energy_mean=0.0"]
    checkpoints = {}

    def train(name: str, source: str, config: str, *words: object) -> dict[int, list[str]]:
        data = [f"{split}_src={tmp_path / source / split}" for split in ("train", "val")]
        data += [f"energy_references={tmp_path / source}/references.npz", "max_atoms=36", "print_every=1"]
        run = [f"job.run_dir={tmp_path}", f"+job.timestamp_id={name}", "ema_decay=0.9", "warmup_steps=5"]
        checkpoints[name] = tmp_path / name / "checkpoints/final/inference_ckpt.pt"
        return losses(fairchem(CONFIGS / config, *run, *data, *words))

    train("many", "many", "example.yaml", *model, "max_epochs=12", "milestones=[1000]")
    begin = f"finetune={checkpoints['many']}"
    train("fine", "few", "finetune.yaml", begin, "max_epochs=20")
    train("none", "few", "example.yaml", *model, "max_epochs=20", "milestones=[1000]")
    errors = {name: transfer.force_error(checkpoints[name]) for name in ("fine", "none")}
    assert errors["fine"] < 0.5 * errors["none"], errors
    on = train("fine", "few", "finetune.yaml", begin, "max_epochs=21")
    assert sorted(on) == [40, 41]
    checkpoints["many"].unlink()  # what was trained needs it no more
    energy, forces = load_tasks(checkpoints["fine"])
    assert [float(task.normalizer.rmsd) for task in (energy, forces)] == pytest.approx(2 * [transfer.RMSD])
    assert energy.element_references is not None
    loaded = torch.load(checkpoints["fine"], weights_only=False)
    assert loaded.model_config["backbone"]["trained_elements"] == [28, 29, 46]
    resumed = OmegaConf.load(tmp_path / "fine/checkpoints/final/resume.yaml")
    assert "finetune" not in OmegaConf.to_yaml(resumed)
