"""Data sets of which only some structures have energies and forces, in fairchem-core 2."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from fairchem.core.units.mlip_unit.mlip_unit import compute_loss, compute_metrics, mt_collater_adapter

from ocp_scn.data.__main__ import main
from ocp_scn.data.aselmdb import AseLmdbWriter, read_rows
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2 import AseDatabase
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.trained import Trained
from tests.fairchem2.conftest import Run, losses
from tests.fairchem2.structures import SETTINGS, crystal, direct, slab, water

KEYS = {"energy": "oc20_energy", "forces": "oc20_forces"}
CONFIG = {"key_mapping": KEYS, "transforms": {"common_transform": {"dataset_name": "oc20"}}}
# What four structures have.
CASES = [("energy", "forces"), ("forces",), (), ("energy",)]


def labelled() -> list[Atoms]:
    found = [slab(0), crystal(), water(), slab(1)]
    for number, (atoms, names) in enumerate(zip(found, CASES, strict=True)):
        results = {"energy": -1.5 - number, "forces": 0.1 * atoms.positions}
        atoms.calc = SinglePointCalculator(atoms, **{name: results[name] for name in names})
        atoms.info["sid"] = f"system{number}"
    return found


@pytest.fixture
def converted(tmp_path: Path) -> AseDatabase:
    write(tmp_path / "mine.traj", labelled())
    words = ["--format", "aselmdb", "--labels", "optional"]
    assert main(["convert", str(tmp_path / "mine.traj"), str(tmp_path / "out"), *words]) == 0
    return AseDatabase({**CONFIG, "src": str(tmp_path / "out/train")})


def parts(data: AseDatabase, indices: range | list[int]) -> tuple[Any, Any, list[Any]]:
    """Return a batch of rows, the predictions for it, and the tasks."""
    model = direct()
    weights = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    trained = Trained({**SETTINGS, "otf_graph": True}, weights, weights, {"energy": (1.0, 2.0)})
    tasks = [hydra.utils.instantiate(task) for task in build(trained, "oc20").tasks_config]
    samples = [data[index] for index in indices]
    for sample in samples:
        sample.dataset_name = "oc20.val"  # as fairchem's data set of data sets does
    batch = mt_collater_adapter(tasks)(samples)
    return batch, model(batch), tasks


def test_losses_and_metrics_are_those_of_what_is_labelled(converted: AseDatabase) -> None:
    batch, out, tasks = parts(converted, range(4))
    found = compute_loss(tasks, out, batch)
    for task in tasks:
        known = [index for index, names in enumerate(CASES) if task.property in names]
        alone, out_alone, _ = parts(converted, known)
        expected = compute_loss([task], out_alone, alone)[task.name]
        assert found[task.name].item() == pytest.approx(expected.item(), rel=1e-4)
        metrics, those = compute_metrics(task, out, batch), compute_metrics(task, out_alone, alone)
        for name, values in those.items():
            assert metrics[name].numel == values.numel > 0
            assert metrics[name].total == pytest.approx(values.total, rel=1e-4)


def test_a_batch_without_labels_has_no_loss_and_no_gradient(converted: AseDatabase) -> None:
    batch, out, tasks = parts(converted, [2])
    loss = sum(compute_loss(tasks, out, batch).values())
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, [out["oc20_energy"]["energy"]])
    assert not gradient.any()


def test_labels_that_no_row_has_or_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with AseLmdbWriter(tmp_path / "out") as writer:
        writer.write(crystal(), sid="a", energy=-1.0)
        writer.write(crystal(), sid="b", energy=math.nan)
    config = {**CONFIG, "src": str(tmp_path / "out")}
    with pytest.raises(InputError, match="no row has 'forces', which key_mapping names"):
        AseDatabase(config)
    data = AseDatabase({**config, "key_mapping": {"energy": "oc20_energy"}})
    assert float(data[0].oc20_energy) == -1.0
    with pytest.raises(InputError, match="row 1 has energy with numbers that are not finite"):
        data[1]
    assert "energy" not in AseDatabase({"src": str(tmp_path / "out")}).get_atoms(0).info


@pytest.mark.slow
def test_training(train: Run, sample: Path, tmp_path: Path) -> None:
    """With batches of one structure, some of which have no label at all."""
    for split in ("train", "val"):
        rows = list(read_rows(sorted((sample / "s2ef" / split).glob("*.aselmdb"))))[:12]
        with AseLmdbWriter(tmp_path / split) as writer:
            for number, (atoms, data) in enumerate(rows):
                names = [name for name, step in (("energy", 2), ("forces", 3)) if number % step == 0]
                writer.write(atoms, **data, **{name: atoms.calc.results[name] for name in names})
    sources = [f"{split}_src={tmp_path / split}" for split in ("train", "val")]
    few = ["max_epochs=null", "runner.max_steps=12", "evaluate_every_n_steps=6", "max_atoms=36"]
    found = losses(train(tmp_path / "run", *few, *sources))
    assert sorted(found) == list(range(12))
    assert all(math.isfinite(float(loss)) for ranks in found.values() for loss in ranks)
    assert any(float(loss) == 0 for ranks in found.values() for loss in ranks)
    assert (tmp_path / "run/train/checkpoints/final/inference_ckpt.pt").is_file()
