"""Checkpoints of one line of fairchem in the other, with real ones of both where both are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write
from fairchem.core import FAIRChemCalculator
from fairchem.core.units.mlip_unit import load_predict_unit

from ocp_scn.checkpoint import main
from ocp_scn.errors import InputError
from ocp_scn.fairchem.inference_checkpoints import from_fairchem2
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.trained import Trained, from_fairchem1, to_fairchem1
from tests import HANG
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FAIRCHEM1, needs_fairchem1
from tests.fairchem2.structures import SETTINGS, SMOOTH, batch_of, conservative, crystal, direct, slab

NORMALIZERS = {"energy": (-0.75, 2.875), "forces": (0.0, 2.875)}
SYSTEMS = [slab(0), slab(1, "Pd"), slab(2, "Au"), crystal()]


def trained(model=None, settings=SETTINGS, **changes):
    model = direct() if model is None else model
    weights = {name.removeprefix("backbone."): value.detach() for name, value in model.state_dict().items()}
    averaged = {name: value + 0.01 for name, value in weights.items()}
    fields = {"normalizers": NORMALIZERS, "references": None, **changes}
    return Trained({**settings, "otf_graph": True}, weights, averaged, **fields)


def assert_same(first, second, averaged="averaged"):
    assert first.config == second.config
    assert first.normalizers == second.normalizers
    for one, two in ((first.weights, second.weights), (first.averaged, getattr(second, averaged))):
        assert list(one) == list(two)
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_fairchem_2_keeps_everything():
    original = trained(references=np.linspace(0, 3, 119).tolist())
    again = from_fairchem2(build(original, "oc20"))
    assert_same(again, original)
    assert again.references == original.references


def test_the_conservative_one_too():
    settings = {**SETTINGS, **SMOOTH, "direct_forces": False}
    original = trained(conservative(), settings)
    assert_same(from_fairchem2(build(original, "oc20")), original)


def test_a_checkpoint_of_fairchem_1_has_the_averaged_weights_under_its_names():
    """There and back: what predicted before predicts again."""
    original = trained()
    checkpoint = to_fairchem1(original)
    assert "edge_blocks.0.message_blocks.0.fc1_dist.weight" in checkpoint["state_dict"]
    again = from_fairchem1(checkpoint)
    assert_same(again, Trained(original.settings, original.averaged, original.averaged, NORMALIZERS))


def test_a_training_checkpoint_of_2022_is_read():
    """Weights below two modules, an average beside them, settings beside the name, old normalizers."""
    original = trained()
    checkpoint = to_fairchem1(original)
    checkpoint["state_dict"] = {f"module.module.{k}": v for k, v in checkpoint["state_dict"].items()}
    checkpoint["ema"] = {"decay": 0.999, "shadow_params": list(original.weights.values())}
    checkpoint["config"] = {"model": "scn", "model_attributes": {**SETTINGS, "otf_graph": False}}
    checkpoint["normalizers"] = {
        "target": {"mean": torch.tensor(-0.75), "std": torch.tensor(2.875)},
        "grad_target": {"mean": torch.tensor(0.0), "std": torch.tensor(2.875)},
    }
    found = from_fairchem1(checkpoint)
    assert_same(found, Trained(original.settings, original.averaged, original.weights, NORMALIZERS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"model": {"name": "gemnet_oc"}}}, "it is of the model 'gemnet_oc'"),
        ({"state_dict": {"module.atom_emb.weight": torch.zeros(1)}}, "its first weight is 'atom_emb.weight'"),
        ({"config": {"model": {"name": "scn", **SETTINGS, "lmax": 2}}}, "do not fit its settings"),
        ({"ema": {"shadow_params": [torch.zeros(2)]}}, "its moving average has 1 weights"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(InputError, match=message):
        from_fairchem1({**to_fairchem1(trained()), **change})


def convert(*words: object) -> int:
    """Return the exit status of the command, in this process."""
    return main(["convert", *map(str, words)])


def test_the_command_writes_a_file_that_predicts(tmp_path):
    """As a user runs it."""
    torch.save(to_fairchem1(trained()), tmp_path / "one.pt")
    words = ["convert", tmp_path / "one.pt", tmp_path / "two.pt", "--task-name", "mine"]
    done = subprocess.run(
        [sys.executable, "-m", "ocp_scn.checkpoint", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "for fairchem-core 2" in done.stdout
    atoms = slab()
    atoms.calc = FAIRChemCalculator(load_predict_unit(tmp_path / "two.pt", device="cpu"), task_name="mine")
    assert np.isfinite(atoms.get_potential_energy())


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    """To replace a file, and what is no checkpoint."""
    torch.save(to_fairchem1(trained()), tmp_path / "one.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    messages = {
        ("one.pt", "text.pt"): "exists",
        ("text.pt", "three.pt"): "is not a checkpoint",
        ("other.pt", "three.pt"): "neither a checkpoint",
        ("none.pt", "three.pt"): "does not exist",
    }
    for (source, target), message in messages.items():
        assert convert(tmp_path / source, tmp_path / target) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.pt", "other.pt", "text.pt"]


def in_fairchem1(folder: Path, *words: object) -> dict[str, np.ndarray]:
    """Run the script beside this file in the environment of fairchem 1 and return what it wrote."""
    script = Path(__file__).with_name("fairchem1.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [FAIRCHEM1, script, folder, *map(str, words)], cwd=ROOT, env=environment, check=True, timeout=HANG
    )
    return dict(np.load(folder / "predictions.npz"))


def predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the energies and forces of the systems, predicted as one batch."""
    out = load_predict_unit(path, inference_settings="batch", device="cpu").predict(batch_of(*SYSTEMS))
    return out["energy"].numpy(), out["forces"].detach().numpy()


@needs_fairchem1
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["published", "conservative"])
def test_both_lines_predict_the_same(tmp_path, kind):
    """A model of fairchem 1, there, here, and there again; its own SCN in the form of published ones."""
    changes = {"lmax": 4} if kind == "published" else {**SMOOTH, "direct_forces": False}
    settings = {**SETTINGS, **changes}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    write(tmp_path / "systems.traj", SYSTEMS)
    first = in_fairchem1(tmp_path, "save", "one.pt")
    assert np.abs(first["forces"]).max() > 0.1

    assert convert(tmp_path / "one.pt", tmp_path / "two.pt") == 0
    energy, forces = predictions(tmp_path / "two.pt")
    # The same bits where this was written; the two releases of torch need not round alike elsewhere.
    assert np.abs(energy - first["energy"]).max() <= 1e-6 * np.abs(first["energy"]).max()
    assert np.abs(forces - first["forces"]).max() <= 1e-6 * np.abs(first["forces"]).max()

    assert convert(tmp_path / "two.pt", tmp_path / "back.pt") == 0
    back = in_fairchem1(tmp_path, "load", "back.pt")
    assert np.array_equal(back["energy"], first["energy"])
    assert np.array_equal(back["forces"], first["forces"])
