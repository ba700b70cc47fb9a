"""Total energies from calculations to predictions: no command needs the references but the training."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from tests.commands.conftest import Command, refused

pytestmark = pytest.mark.slow

ATOMIC = {"Cu": -200.0, "Ni": -350.0}  # eV that calculations of all electrons would add


def calculation(metal: str, layers: int, seed: int) -> Atoms:
    """Return a rattled slab with EMT's energy and forces, the energy of free atoms large."""
    atoms = fcc111(metal, (2, 2, layers), vacuum=6.0, periodic=True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    energy += len(atoms) * ATOMIC[metal]
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info = {"sid": f"{metal}{layers}-{seed}", "fid": 0, "y_relaxed": energy}
    atoms.set_array("pos_relaxed", atoms.positions.copy())
    return atoms


@pytest.fixture(scope="module")
def run(
    command: Command, fairchem: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The run folder of a training with references whose file is gone, and the settings of its data."""
    folder = tmp_path_factory.mktemp("total")
    frames = [calculation(metal, layers, seed) for seed in range(4) for metal in ATOMIC for layers in (2, 3)]
    ase.io.write(folder / "frames.extxyz", frames)
    words = ["--split", "val=sids:Cu2-3,Ni3-3", "--split", "relax=sids:Cu3-3,Ni2-3"]
    printed = command(
        "-m", "ocp_scn.data", "convert", folder / "frames.extxyz", folder / "data", *words
    ).stdout
    (references,) = [word for word in printed.split() if word.startswith("--dataset.train.transforms")]
    normalizer = json.loads((folder / "data/conversion.json").read_text())["normalizer"]["energy"]
    sources = {"train": "train", "val": "val", "test": "val", "relax": "relax"}
    settings = [f"--dataset.{split}.src={folder / 'data' / name}" for split, name in sources.items()]
    settings += [f"--dataset.train.transforms.normalizer.energy.{k}={v}" for k, v in normalizer.items()]
    settings += [references]
    log = fairchem("train", folder, "--timestamp-id", "train", *settings)
    assert "is added once a system" not in log.stdout + log.stderr
    (folder / "data/references.npz").unlink()
    return folder, settings


def test_a_checkpoint_has_references_and_elements(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    for name in ("checkpoint.pt", "best_checkpoint.pt"):
        checkpoint = torch.load(folder / "checkpoints/train" / name, weights_only=False)
        found = checkpoint["elementrefs"]["energy"]["element_references"]
        assert found[29] == pytest.approx(ATOMIC["Cu"], abs=2)
        assert found[28] == pytest.approx(ATOMIC["Ni"], abs=2)
        assert checkpoint["config"]["trained_elements"] == [28, 29]


def test_every_command_adds_the_references(
    command: Command, fairchem: Command, run: tuple[Path, list[str]]
) -> None:
    """Predictions, relaxations and the report are of total energies, some eV off, not thousands."""
    folder, settings = run
    common = ["--checkpoint", folder / "checkpoints/train/best_checkpoint.pt", *settings]
    fairchem("predict", folder, "--timestamp-id", "predict", *common)
    words = ["--timestamp-id", "relax", "--task.relaxation_steps=2", *common]
    relaxation = fairchem("run-relaxations", folder, *words)
    assert "is2re_energy_mae: " in relaxation.stdout
    predicted = np.load(folder / "results/predict/ocp_predictions.npz")
    relaxed = np.load(folder / "results/relax/relaxed_positions.npz")
    found = dict(zip(predicted["ids"], predicted["energy"][:, 0], strict=True))
    found |= dict(zip(relaxed["ids"], relaxed["energy"], strict=True))
    expected = {"Cu2-3_0": 8 * -200, "Ni3-3_0": 12 * -350, "Cu3-3": 12 * -200, "Ni2-3": 8 * -350}
    assert found == {name: pytest.approx(energy, abs=25) for name, energy in expected.items()}
    command("-m", "ocp_scn.report", folder)
    report = json.loads((folder / "report/metrics.json").read_text())
    for predictor in ("model", "trivial"):
        assert report["s2ef"]["val"][predictor]["energy_mae"] < 25
    assert report["relaxation"]["relax"]["model"]["is2re_energy_mae"] < 25


def test_a_training_without_its_references_is_refused(fairchem: Command, run: tuple[Path, list[str]]) -> None:
    folder, settings = run
    line = refused(fairchem("train", folder, "--timestamp-id", "again", *settings, ok=False))
    assert f"{folder / 'data/references.npz'}'" in line
    assert "cannot be read" in line
