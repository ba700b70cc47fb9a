"""Element references and known elements: checkpoints keep them, fairchem's calculator uses them."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, molecule
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.datasets import LmdbDataset
from fairchem.core.modules.normalization.normalizer import create_normalizer
from torch.utils.data import Subset

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.training_data import elements_of, sizes_of, warn_of_mean
from ocp_scn.fairchem.v1.checks import check_references, check_run
from ocp_scn.fairchem.v1.lmdb import LmdbWriter
from ocp_scn.fairchem.v1.loading import read_checkpoint
from ocp_scn.fairchem.v1.trainer import SCNTrainer
from ocp_scn.model import SCN
from ocp_scn.trained import Trained, to_fairchem1

SETTINGS: dict[str, Any] = {
    "lmax": 2,
    "num_interactions": 1,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "hidden_channels": 8,
    "num_basis_functions": 8,
    "num_sphere_samples": 16,
    "cutoff": 5.0,
    "distance_resolution": 0.2,
    "otf_graph": True,
    # Of neighbours at equal distances all count, however large the cell.
    "max_num_neighbors": -1,
    "num_resolutions": 1,
}
REFERENCES = [0.0] * 119
REFERENCES[8], REFERENCES[29] = -432.5, -3.719  # eV


def checkpoint(path: Path, mean: float = 0.0, elements: list[int] | None = None, **settings: Any) -> Path:
    """Write a checkpoint of a model with references where the mean is 0; return its path."""
    torch.manual_seed(1)
    model = SCN(SCNConfig(**SETTINGS))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    normalizers = {"energy": (mean, 2.0), "forces": (0.0, 2.0)}
    references = REFERENCES if mean == 0 else None
    trained = Trained({**SETTINGS, **settings}, weights, weights, normalizers, references, elements)
    torch.save(to_fairchem1(trained), path)
    return path


def energy(atoms: Atoms, calculator: OCPCalculator) -> float:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_potential_energy()


def calculator(path: Path) -> OCPCalculator:
    return OCPCalculator(checkpoint_path=path, cpu=True, seed=0)


def slab(metal: str = "Cu") -> Atoms:
    return fcc111(metal, (2, 2, 2), vacuum=7.0, periodic=True)


TWO_ATOMS = Atoms("O2", positions=[[5.0, 5.0, 5.0], [5.0, 5.0, 45.0]], cell=[10, 10, 80], pbc=True)


def test_energies_grow_with_the_system(tmp_path: Path) -> None:
    """Two atoms far apart have twice the energy of one, a doubled slab that of the slab; not with a mean."""
    with_references = calculator(checkpoint(tmp_path / "references.pt"))
    for one, two in ((TWO_ATOMS[:1], TWO_ATOMS), (slab(), slab().repeat((2, 1, 1)))):
        alone = energy(one, with_references)
        network = abs(alone - len(one) * REFERENCES[one.numbers[0]])
        assert network > 1e-3
        assert energy(two, with_references) == pytest.approx(2 * alone, abs=2e-6 * max(1, network))
    with_mean = calculator(checkpoint(tmp_path / "mean.pt", mean=-3.04))
    assert energy(TWO_ATOMS, with_mean) - 2 * energy(TWO_ATOMS[:1], with_mean) == pytest.approx(
        3.04, abs=1e-5
    )


def test_references_can_be_left_out(tmp_path: Path) -> None:
    calc = calculator(checkpoint(tmp_path / "references.pt"))
    whole = energy(slab(), calc)
    del calc.trainer.elementrefs["energy"]
    calc.reset()
    assert whole - energy(slab(), calc) == pytest.approx(8 * REFERENCES[29], abs=1e-5)


def test_elements_that_were_not_trained_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calc = calculator(checkpoint(tmp_path / "known.pt", elements=[29, 8]))
    with caplog.at_level(logging.WARNING):
        energy(slab("Cu"), calc)
        assert "trained on" not in caplog.text
        for metal in ("Fe", "Fe", "W"):
            energy(fcc111(metal, (2, 2, 2), a=3.7, vacuum=7.0, periodic=True), calc)
    found = [record.message for record in caplog.records if "trained on" in record.message]
    assert [line.split(", so")[0] for line in found] == [
        "the model was trained on O, Cu, not on Fe",
        "the model was trained on O, Cu, not on W",
    ]


def test_elements_that_were_not_trained_are_refused_on_request(tmp_path: Path) -> None:
    calc = calculator(checkpoint(tmp_path / "strict.pt", elements=[29, 8], strict_elements=True))
    assert np.isfinite(energy(slab("Cu"), calc))
    with pytest.raises(InputError, match=r"trained on O, Cu, not on Au \(strict_elements=True\)"):
        energy(slab("Au"), calc)


def test_published_checkpoints_do_not_know_their_elements(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calc = calculator(checkpoint(tmp_path / "published.pt"))
    with caplog.at_level(logging.WARNING):
        assert np.isfinite(energy(slab("Au"), calc))
    assert "trained on" not in caplog.text


@pytest.fixture
def data(tmp_path: Path) -> LmdbDataset:
    """A data set of a slab of 8 copper atoms, one of gold, and an oxygen molecule."""
    with LmdbWriter(tmp_path / "data") as writer:
        for sid, atoms in enumerate((slab(), slab("Au"), TWO_ATOMS)):
            writer.write(atoms, sid=sid)
    return LmdbDataset({"src": str(tmp_path / "data")})


def test_a_data_set_knows_its_elements_and_sizes(data: LmdbDataset) -> None:
    assert elements_of(data) == {8, 29, 79}
    assert sizes_of(data) == (2, 8)
    (data.path / "elements.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"elements\.npz is no record of elements"):
        elements_of(data)


def test_a_data_set_without_records_is_read_through(data: LmdbDataset) -> None:
    for name in ("elements.npz", "metadata.npz"):
        (data.path / name).unlink()
    assert elements_of(data) == {8, 29, 79}
    assert elements_of(Subset(data, [0, 2])) == {8, 29}
    assert sizes_of(LmdbDataset({"src": str(data.path)})) == (2, 8)


def test_a_mean_is_warned_of_where_sizes_differ(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_mean(0.0, (2, 8))
        warn_of_mean(-4.1, (8, 8))
        assert not caplog.records
        warn_of_mean(-4.1, (2, 8))
    assert (
        "energy mean of -4.1 eV is added once a system, and the training data have systems of 2 to 8 atoms"
        in (caplog.text)
    )


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ({"energy": {"file": "nowhere.npz"}}, r"element_references.energy=.*nowhere.npz.* cannot be read"),
        ({"energy": {"fiel": "references.npz"}}, "unexpected keyword argument 'fiel'"),
        ({"enrgy": {"file": "nowhere.npz"}}, "has 'enrgy'; expected energy, forces, fit or file"),
    ],
)
def test_references_that_cannot_be_used_are_refused(references: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        check_references(references, ["energy", "forces"])


@pytest.fixture
def of_fairchem2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with an object of the class that checkpoints of fairchem 2 are of, which is not here."""
    name = "fairchem.core.units.mlip_unit.api.inference"
    kind = type("MLIPInferenceCheckpoint", (), {"__module__": name})
    parts = name.split(".")
    with monkeypatch.context() as patch:
        for end in range(3, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        setattr(sys.modules[name], kind.__name__, kind)
        torch.save(kind(), tmp_path / "two.pt")
    return tmp_path / "two.pt"


def test_a_checkpoint_of_fairchem_2_names_the_command_that_converts_it(of_fairchem2: Path) -> None:
    """Wherever it is read: by a run, and by fairchem's own calculator."""
    command = f"python -m ocp_scn.checkpoint convert {of_fairchem2} TARGET"
    with pytest.raises(InputError, match=command):
        read_checkpoint(str(of_fairchem2))
    run = {"mode": "train", "model": {"name": "elsewhere.Other"}, "checkpoint": str(of_fairchem2)}
    for mode, split in {"validate": "val", "predict": "test", "run-relaxations": "relax"}.items():
        config = {**run, "mode": mode, "dataset": {split: {"src": str(of_fairchem2), "format": "ase_db"}}}
        with pytest.raises(
            InputError, match=f"--checkpoint {of_fairchem2} is a .* 2, and this is 1; .*{command}"
        ):
            check_run(config)
    with pytest.raises(InputError, match=command):
        calculator(of_fairchem2)


def test_references_of_a_configuration_need_a_checkpoint_with_some(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "water.db") as database:
        database.write(molecule("H2O"))
    references = {"energy": {"file": "of the training, not needed here.npz"}}
    config = {
        "mode": "predict",
        "model": {"name": "scn", **SETTINGS},
        "dataset": {
            "train": {"transforms": {"element_references": references}},
            "test": {"src": str(tmp_path / "water.db"), "format": "ase_db", "use_train_settings": False},
        },
    }
    check_run({**copy.deepcopy(config), "checkpoint": str(checkpoint(tmp_path / "references.pt"))})
    with pytest.raises(
        InputError, match=r"element_references is set, but --checkpoint .*mean.pt was trained without"
    ):
        check_run({**config, "checkpoint": str(checkpoint(tmp_path / "mean.pt", mean=-1.0))})


@pytest.mark.parametrize(
    ("started_from", "expected"), [((), [8, 29, 79]), ([1, 8], [1, 8, 29, 79]), (None, None)]
)
def test_a_training_looks_at_its_data(
    data: LmdbDataset,
    caplog: pytest.LogCaptureFixture,
    started_from: list[int] | None,
    expected: list[int] | None,
) -> None:
    """From a checkpoint that does not know its elements, no training can know all of its own."""
    training = SimpleNamespace(
        normalizers={"energy": create_normalizer(mean=-4.1, stdev=1.0)},
        elementrefs={},
        train_dataset=data,
        config={},
        _started_from=started_from,
    )
    with caplog.at_level(logging.WARNING):
        SCNTrainer._look_at_data(training)
        assert "mean of -4.1 eV is added once a system" in caplog.text
        assert training.config.get("trained_elements") == expected
        caplog.clear()
        training.elementrefs = {"energy": None}
        SCNTrainer._look_at_data(training)
        assert "added once a system" not in caplog.text
        assert ("not trained on" in caplog.text) == (started_from == [1, 8])
