"""Element references and known elements in fairchem-core 2, from a training to its calculator."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from fairchem.core import FAIRChemCalculator
from omegaconf import OmegaConf

from ocp_scn.data.__main__ import main as data_command
from ocp_scn.errors import InputError
from ocp_scn.fairchem.inference_checkpoints import from_fairchem2
from ocp_scn.fairchem.v2 import AseDatabase, element_references, load_predict_unit, load_tasks
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.fairchem.v2.training import _complete_configuration
from ocp_scn.trained import from_fairchem1, to_fairchem1
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import FEW_STEPS, TINY, fairchem
from tests.fairchem2.structures import SETTINGS, direct, slab
from tests.fairchem2.test_checkpoint import trained

REFERENCES = [0.0] * 119
REFERENCES[8], REFERENCES[29] = -432.5, -3.719  # eV
# Of neighbours at equal distances all count, however large the cell.
ALL_NEIGHBOURS = {"max_num_neighbors": -1, "num_resolutions": 1}
NO_MEAN = {"energy": (0.0, 2.0), "forces": (0.0, 2.0)}


def checkpoint(path: Path, **changes) -> Path:
    """Write a checkpoint with references; return its path."""
    fields = {"normalizers": NO_MEAN, "references": REFERENCES, **changes}
    model = trained(direct(**ALL_NEIGHBOURS), {**SETTINGS, **ALL_NEIGHBOURS}, **fields)
    torch.save(build(model, "oc20"), path)
    return path


def energy(atoms: Atoms, path: Path, **overrides) -> float:
    unit = load_predict_unit(path, device="cpu", overrides={"backbone": overrides})
    copy = atoms.copy()
    copy.calc = FAIRChemCalculator(unit, task_name="oc20")
    return copy.get_potential_energy()


def test_energies_grow_with_the_system(tmp_path):
    """Two atoms far apart have twice the energy of one, a doubled slab that of the slab."""
    path = checkpoint(tmp_path / "references.pt")
    pair = Atoms("O2", positions=[[5.0, 5.0, 5.0], [5.0, 5.0, 45.0]], cell=[10, 10, 80], pbc=True)
    metal = fcc111("Cu", (2, 2, 2), vacuum=7.0, periodic=True)
    for one, two in ((pair[:1], pair), (metal, metal.repeat((2, 1, 1)))):
        alone = energy(one, path)
        assert abs(alone - len(one) * REFERENCES[one.numbers[0]]) > 1e-3  # the network adds something
        assert energy(two, path) == pytest.approx(2 * alone, rel=1e-6)


def test_elements_that_were_not_trained_are_named_once(tmp_path, caplog):
    path = checkpoint(tmp_path / "known.pt", elements=[8, 29])
    calculator = FAIRChemCalculator(load_predict_unit(path, device="cpu"), task_name="oc20")
    with caplog.at_level(logging.WARNING):
        for seed, metal in enumerate(("Cu", "Pd", "Pd")):
            atoms = slab(seed, metal)
            atoms.calc = calculator
            atoms.get_potential_energy()
    found = [record.message for record in caplog.records if "trained on" in record.message]
    assert [line.split(", so")[0] for line in found] == ["the model was trained on O, Cu, not on Pd"]
    with pytest.raises(InputError, match=r"not on Pd \(strict_elements=True\)"):
        energy(slab(0, "Pd"), path, strict_elements=True)


def test_elements_go_from_line_to_line(tmp_path):
    original = trained(references=REFERENCES, elements=[8, 29])
    assert from_fairchem2(build(original, "oc20")).elements == [8, 29]
    again = from_fairchem1(to_fairchem1(original))
    assert again.elements == [8, 29]
    assert again.references == pytest.approx(REFERENCES)
    published = from_fairchem1(to_fairchem1(trained()))
    assert published.elements is None
    assert "trained_elements" not in build(published, "oc20").model_config["backbone"]


def test_a_checkpoint_of_fairchem_1_names_the_command_that_converts_it(tmp_path):
    path = tmp_path / "one.pt"
    torch.save(to_fairchem1(trained()), path)
    for load in (load_predict_unit, load_tasks):
        with pytest.raises(InputError, match=f"python -m ocp_scn.checkpoint convert {path} TARGET"):
            load(str(path))
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save([1], tmp_path / "list.pt")
    for name, message in {"text.pt": "is not a checkpoint", "list.pt": "is no inference checkpoint"}.items():
        with pytest.raises(InputError, match=f"{name} {message}"):
            load_tasks(str(tmp_path / name))


def test_references_that_cannot_be_read_are_refused(tmp_path):
    assert element_references(None) is None
    np.savez(tmp_path / "other.npz", energies=[1.0])
    for name in ("nowhere.npz", "other.npz"):
        with pytest.raises(InputError, match=f"energy_references='.*{name}' cannot be read"):
            element_references(str(tmp_path / name))


@pytest.fixture(scope="module")
def total(tmp_path_factory) -> Path:
    """A folder with data of total energies, of slabs of two sizes, and their references."""
    folder = tmp_path_factory.mktemp("total")
    frames = []
    for seed in range(8):
        atoms = fcc111("Cu" if seed % 2 else "Ni", (2, 2, 2 + seed // 4), vacuum=6.0, periodic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() - 200.0 * len(atoms), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info = {"sid": f"s{seed}", "fid": 0}
        frames.append(atoms)
    ase.io.write(folder / "frames.extxyz", frames)
    words = ["--format", "aselmdb", "--split", "val=sids:s3,s7"]
    assert data_command(["convert", str(folder / "frames.extxyz"), str(folder / "data"), *words]) == 0
    return folder / "data"


@pytest.mark.parametrize(
    ("known", "fine_tuned", "expected"),
    [
        (None, None, [28, 29]),
        ([1, 28], None, [1, 28, 29]),
        ([1, 28], {"backbone": {}}, [1, 28, 29]),
        (None, {"backbone": {}}, None),
    ],
)
def test_the_configuration_of_checkpoints_is_completed(total, tmp_path, caplog, known, fine_tuned, expected):
    """With the values of references, and elements, unless a fine-tuned model does not know its own."""
    uses = {
        "_target_": "ocp_scn.fairchem.v2.element_references",
        "file": str(total / "references.npz"),
    }
    unit_config = {"model": {"backbone": {}}, "tasks": [{"element_references": uses}]}
    path = tmp_path / "canonical_config.yaml"
    OmegaConf.save(OmegaConf.create({"runner": {"train_eval_unit": unit_config}}), path)
    backbone = SimpleNamespace(known=known and SimpleNamespace(numbers=set(known)))
    task = SimpleNamespace(
        property="energy", element_references=None, normalizer=SimpleNamespace(mean=torch.tensor(-4.1))
    )
    unit = SimpleNamespace(
        tasks=[task],
        model=SimpleNamespace(module=SimpleNamespace(backbone=backbone)),
        job_config=SimpleNamespace(metadata=SimpleNamespace(config_path=str(path))),
        get_finetune_model_config=lambda: fine_tuned,
    )
    with caplog.at_level(logging.WARNING):
        _complete_configuration(unit, [AseDatabase({"src": str(total / "train")})])
    assert "mean of -4.1 eV is added once a system, and the training data have systems of 8 to 12 atoms" in (
        caplog.text
    )
    written = OmegaConf.load(path).runner.train_eval_unit
    (values,) = written.tasks[0].element_references.element_references._args_
    assert np.array_equal(values, np.load(total / "references.npz")["coeff"])
    for model in (written.model, fine_tuned):
        if model is not None:
            assert model["backbone"].get("trained_elements") == expected


@pytest.mark.slow
def test_a_training_on_total_energies(total, tmp_path):
    """Its checkpoint predicts total energies, and needs no file of the training."""
    references = total / "references.npz"
    folder = tmp_path / "run"
    fairchem(
        ROOT / "configs/fairchem2/s2ef/example.yaml",
        f"job.run_dir={folder}",
        "+job.timestamp_id=train",
        *[f"++model.backbone.{name}={value}" for name, value in TINY.items()],
        f"train_src={total / 'train'}",
        f"val_src={total / 'val'}",
        "energy_mean=0.0",
        f"energy_references={references}",
        *FEW_STEPS,
    )
    text = (folder / "train/checkpoints/step_4/resume.yaml").read_text()
    assert str(references) not in text
    path = folder / "train/checkpoints/final/inference_ckpt.pt"
    fairchem(
        ROOT / "configs/fairchem2/predict.yaml",
        "job.device_type=CPU",
        f"job.run_dir={tmp_path / 'predict'}",
        f"checkpoint={path}",
        f"src={total / 'val'}",
        f"results={tmp_path / 'found.npz'}",
    )
    found = np.load(tmp_path / "found.npz")
    expected = [-200.0 * 8, -200.0 * 12]
    assert np.allclose(found["energy"][:, 0], expected, atol=25)
    model = from_fairchem2(torch.load(path, weights_only=False))
    assert model.elements == [28, 29]
    assert model.references[29] == pytest.approx(-200, abs=2)
