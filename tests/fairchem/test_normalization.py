"""What normalises targets in fairchem-core 1.10: floats, the checkpoint's, and one scale for derivatives."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import pytest
import torch
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.modules.normalization.normalizer import Normalizer
from torch_geometric.data import Data

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.checks import check_normalizers
from ocp_scn.fairchem.v1.trainer import SCNTrainer
from tests.samples import write_lmdb
from tests.structures import batch_of, bulk
from tests.weights import strengthen

MODEL = {
    "name": "ocp_scn",
    "direct_forces": False,
    "regress_stress": True,
    "lmax": 2,
    "num_interactions": 1,
    "sphere_channels": 8,
    "sphere_channels_reduce": 8,
    "hidden_channels": 8,
    "num_sphere_samples": 18,
    "num_basis_functions": 8,
    "distance_resolution": 0.5,
    "num_resolutions": 1,
    "max_num_neighbors": -1,
    "cutoff": 4.0,
    "otf_graph": True,
}
OPTIM = {"optimizer": "AdamW", "lr_initial": 1e-3, "batch_size": 2, "num_workers": 0, "max_epochs": 1}
OPTIM |= {"lr_milestones": [100], "lr_gamma": 0.1, "warmup_steps": 1, "warmup_factor": 0.2}
OUTPUTS = {
    "energy": {"level": "system"},
    "forces": {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True},
    "stress": {"level": "system"},
}
LOSSES = [{name: {"fn": "mae", "coefficient": 1}} for name in OUTPUTS]
METRICS = {"metrics": {name: ["mae"] for name in OUTPUTS}, "primary_metric": "energy_mae"}
ENERGY, FORCES = {"mean": -6.07, "rmsd": 2.26}, {"mean": 0.0, "rmsd": 2.26}
AGREE = {"energy": ENERGY, "forces": FORCES, "stress": FORCES}
MEAN, RMSD = -0.7554450631141663, 2.887317180633545  # eV, of OC20 S2EF


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a data set with energy, forces and stress."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    write_lmdb(folder, [sample(seed) for seed in range(4)])
    return str(folder)


def sample(seed: int) -> Data:
    data = bulk(3, seed, edge=4.0)
    data.pos, data.cell = data.pos.float(), data.cell.float()
    data.energy, data.forces, data.stress = float(seed), torch.randn(3, 3), torch.randn(1, 3, 3)
    data.fixed, data.tags, data.sid = torch.zeros(3), torch.zeros(3), str(seed)
    return data


def trainer(run: Path, normalizer: Any, source: str | None = None, **changes: Any) -> SCNTrainer:
    """Return a trainer of a tiny model whose forces and stress are derivatives."""
    train = {"transforms": {"normalizer": normalizer}} | ({"src": source} if source else {})
    settings: dict[str, Any] = {"dataset": {"train": train, "val": {"src": source} if source else {}}}
    settings |= {"task": {}, "model": MODEL, "outputs": OUTPUTS, "optimizer": OPTIM}
    settings |= {"loss_functions": LOSSES, "evaluation_metrics": METRICS, "logger": "tensorboard"}
    settings |= {"seed": 0, "timestamp_id": "run", "run_dir": str(run), "cpu": True}
    return SCNTrainer(**settings | changes, identifier="", local_rank=0)


def saved(run: Path, source: str | None = None, **scales: Any) -> Path:
    """Return a checkpoint of a model with these normalizers."""
    made = trainer(run, AGREE, source)
    path = Path(made.save() or "")
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["config"]["dataset"]["src"] = ""  # which fairchem's calculator deletes
    checkpoint["normalizers"] = {
        name: {"mean": torch.tensor(mean), "rmsd": torch.tensor(rmsd)}
        for name, (mean, rmsd) in scales.items()
    }
    torch.save(checkpoint, path)
    return path


def of_files(folder: Path) -> dict[str, Any]:
    """Return a ``normalizer`` section whose values lie in a file for each target."""
    for name, rmsd in (("energy", 2.0), ("forces", 0.56)):
        np.savez(folder / f"{name}.npz", mean=0.0, rmsd=rmsd)
    return {name: {"file": str(folder / f"{name}.npz")} for name in ("energy", "forces")}


def of_one_file(folder: Path) -> dict[str, Any]:
    """Return a ``normalizer`` section whose values lie in one file."""
    torch.save({"energy": Normalizer(0.0, 2.0), "forces": Normalizer(0.0, 0.56)}, folder / "all.pt")
    return {"file": str(folder / "all.pt")}


DISAGREE: dict[str, Any] = {
    "stdev": {"energy": {"mean": 0.0, "stdev": 2.26}, "forces": {"mean": 0.0, "stdev": 0.56}},
    "rmsd": {"energy": ENERGY, "forces": {"mean": 0.0, "rmsd": 0.56}},
    "rmsd before stdev": {"energy": ENERGY, "forces": {"mean": 0.0, "stdev": 2.26, "rmsd": 0.56}},
    "a mean of forces": {"energy": ENERGY, "forces": {"mean": 0.1, "rmsd": 2.26}},
    "no scale of forces": {"energy": ENERGY},
    "no scale of the energy": {"forces": FORCES},
    "no scale of the stress": {"energy": ENERGY, "forces": FORCES},
    "stress": {**AGREE, "stress": {"mean": 0.0, "rmsd": 0.04}},
    "fit": {"fit": {"targets": {"energy": None, "forces": {"mean": 0}, "stress": None}, "batch_size": 2}},
    "files": of_files,
    "one file": of_one_file,
}


@pytest.mark.parametrize("normalizer", DISAGREE.values(), ids=DISAGREE.keys())
def test_scales_that_are_not_the_energy_s_are_refused(source: str, tmp_path: Path, normalizer: Any) -> None:
    """Wherever they are from: forces that are 0.2 or 8 times the derivative are no forces."""
    section = normalizer(tmp_path) if callable(normalizer) else normalizer
    with pytest.raises(InputError, match=r"direct_forces=False\) is a derivative of the energy, but"):
        trainer(tmp_path, section, source).train()
    assert not (tmp_path / "checkpoints/run/checkpoint.pt").exists()


@pytest.mark.parametrize("name", [name for name, section in DISAGREE.items() if isinstance(section, dict)])
def test_numbers_are_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    """Those of a configuration; what is fitted or loaded is known later."""
    config = {"mode": "train", "model": MODEL, "outputs": OUTPUTS, "run_dir": str(tmp_path)}
    config["dataset"] = {"train": {"transforms": {"normalizer": DISAGREE[name]}}}
    if name == "fit":
        check_normalizers(config)
        return
    with pytest.raises(InputError, match="derivative of the energy"):
        check_normalizers(config)
    check_normalizers({**config, "checkpoint": "whose.pt"})  # whose scales will be used
    check_normalizers({**config, "model": {"name": "ocp_scn"}})


@pytest.mark.parametrize("derivative", ["forces", "stress"])
def test_scales_of_a_checkpoint_are_checked(tmp_path: Path, derivative: str) -> None:
    """In every mode that loads one, and in the calculator."""
    good = {"energy": (-6.07, 2.26), "forces": (0.0, 2.26), "stress": (0.0, 2.26)}
    path = saved(tmp_path, **good | {derivative: (0.0, 0.56)})
    message = f"output '{derivative}' .* mean 0.0 and rmsd 0.56; expected mean 0.0 and rmsd 2.26"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, AGREE).load_checkpoint(str(path))
    with pytest.raises(InputError, match=message):
        OCPCalculator(checkpoint_path=path, cpu=True, seed=0)


def test_forces_and_stress_are_the_derivatives_of_the_energy(tmp_path: Path) -> None:
    """In eV/Å and eV/Å³, after denormalisation, by differences of the energy in eV."""
    torch.set_default_dtype(torch.float64)
    made = trainer(tmp_path, {name: {**of, "rmsd": 8.0} for name, of in AGREE.items()})
    made._check_derivatives()
    strengthen(made.model)
    data, step, energies = batch_of(bulk(3, 1, edge=4.0)), 1e-4, []

    def predict(pos: torch.Tensor, cell: torch.Tensor) -> dict[str, torch.Tensor]:
        moved = data.clone()
        moved.pos, moved.cell = pos, cell
        return made.predict(moved, per_image=False, disable_tqdm=True)

    found = predict(data.pos, data.cell)
    for sign in (1, -1):
        shift, strain = torch.zeros_like(data.pos), torch.zeros(3, 3)
        shift[0, 2], strain[1, 1] = sign * step, sign * step
        strained = predict(data.pos + data.pos @ strain, data.cell + data.cell @ strain)["energy"].item()
        energies.append([predict(data.pos + shift, data.cell)["energy"].item(), strained])
    force, stress = [-(plus - minus) / (2 * step) for plus, minus in zip(*energies, strict=True)]
    assert found["forces"][0, 2].item() == pytest.approx(force, rel=1e-5)
    volume = torch.linalg.det(data.cell[0]).item()
    assert found["stress"].view(3, 3)[1, 1].item() == pytest.approx(-stress / volume, rel=1e-5)


# Whole numbers, as a configuration may write them; the layout of 2022 has other names.
WHOLE = {name: {"mean": 0, "stdev": 2} for name in OUTPUTS}
OLD = {
    "normalize_labels": True,
    "target_mean": 0,
    "target_std": 2,
    "grad_target_mean": 0,
    "grad_target_std": 2,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dataset": [OLD], "task": {"dataset": "trajectory_lmdb"}, "loss_functions": {}, "outputs": {}},
    ],
    ids=["new", "of 2022"],
)
def test_whole_numbers_are_floats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    """A checkpoint's mean of -0.755 stays that, whatever the configuration had."""
    path = saved(tmp_path, energy=(MEAN, RMSD), forces=(0.0, RMSD), stress=(0.0, RMSD))
    if changes:
        scales = {"target": (MEAN, RMSD), "grad_target": (0.0, RMSD)}
        state = {name: {"mean": mean, "std": torch.tensor(rmsd)} for name, (mean, rmsd) in scales.items()}
        torch.save(torch.load(path, weights_only=False) | {"normalizers": state}, path)
    made = trainer(tmp_path, WHOLE, **changes)
    assert made.normalizers["energy"].mean.is_floating_point()
    assert made.normalizers["energy"].rmsd.item() == 2.0
    assert all(isinstance(loss["coefficient"], float) for _, loss in made.loss_functions)
    made.load_checkpoint(str(path))
    assert made.normalizers["energy"].mean.item() == pytest.approx(MEAN, rel=1e-7)
    assert made.normalizers["energy"](torch.zeros(1)).item() == pytest.approx(MEAN, rel=1e-7)
    assert "output energy: mean -0.75544506 and rmsd 2.8873172, of the checkpoint" in caplog.text


def test_whole_numbers_beside_a_fit_and_in_files_are_floats(source: str, tmp_path: Path) -> None:
    """A fit's overrides, and element references: a checkpoint's are not truncated either."""
    np.savez(tmp_path / "references.npz", coeff=np.arange(119))
    np.savez(tmp_path / "stress.npz", mean=np.array(0), rmsd=np.array(3))
    fit = {"targets": {"energy": None, "forces": {"mean": 0, "rmsd": 2}}, "batch_size": 2}
    transforms = {"normalizer": {"fit": fit, "stress": {"file": str(tmp_path / "stress.npz")}}}
    transforms["element_references"] = {"energy": {"file": str(tmp_path / "references.npz")}}
    made = trainer(tmp_path, None, dataset={"train": {"src": source, "transforms": transforms}})
    modules = [*made.normalizers.values(), *made.elementrefs.values()]
    assert len(modules) == 4
    assert all(value.is_floating_point() for module in modules for value in module.buffers())
    assert made.normalizers["forces"].rmsd.item() == 2.0
    path = saved(tmp_path, **{name: (0.5, RMSD) if name == "energy" else (0.0, RMSD) for name in OUTPUTS})
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["elementrefs"] = {"energy": {"element_references": torch.full((119,), -0.25)}}
    torch.save(checkpoint, path)
    made.load_checkpoint(str(path))
    assert made.normalizers["energy"].mean.item() == 0.5
    assert made.elementrefs["energy"].element_references.tolist() == [-0.25] * 119


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"energy": {"mean": "much", "stdev": 1.0}}, "normalizer.energy.mean='much'; expected a number"),
        ({"energy": {"mean": True, "stdev": 1.0}}, "normalizer.energy.mean=True; expected a number"),
        ({"energy": {"mean": 0.0, "rmsd": float("nan")}}, "normalizer.energy.rmsd=nan; expected a number"),
        ({"energy": {"mean": 0.0, "rmsd": 0}}, "normalizer.energy.rmsd=0; expected a number above 0"),
        ({"energy": {"mean": 0.0}}, r"normalizer.energy=\{'mean': 0.0\}; expected mean and rmsd, or file"),
        ({"energy": {"mean": 0.0, "std": 1.0}}, "expected a section of mean, rmsd, stdev, file"),
        ({"energy": 2.26}, "normalizer.energy=2.26; expected a section"),
        (
            {"fit": {"targets": {"forces": {"mean": "none"}}}},
            "normalizer.fit.targets.forces.mean='none'; expected a number",
        ),
    ],
)
def test_what_is_no_number_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_normalizers({"model": MODEL, "dataset": {"train": {"transforms": {"normalizer": section}}}})


def test_coefficients_are_numbers() -> None:
    """YAML makes text of 1e1."""
    losses = [{"energy": {"fn": "mae", "coefficient": "ten"}}]
    with pytest.raises(InputError, match=r"loss_functions.energy.coefficient='ten'; expected a number"):
        check_normalizers({"model": MODEL, "loss_functions": losses})
    check_normalizers({"model": MODEL, "loss_functions": [{"energy": {"fn": "mae", "coefficient": "1e1"}}]})


def test_log_has_the_scales_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the checkpoint, beside the configuration's where they differ."""
    path = saved(tmp_path, energy=(MEAN, 2.26), forces=(0.0, 2.26))
    made = trainer(tmp_path, AGREE)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        made.load_checkpoint(str(path))
    found = {
        record.getMessage().removeprefix("Normalization in use for output "): record.levelname
        for record in caplog.records
        if "in use" in record.getMessage()
    }
    assert found == {
        "energy: mean -0.75544506 and rmsd 2.26, of the checkpoint; "
        "the configuration has mean -6.07 and rmsd 2.26": "WARNING",
        "forces: mean 0.0 and rmsd 2.26, of the checkpoint": "INFO",
        "stress: mean 0.0 and rmsd 2.26, of the configuration; the checkpoint has none": "WARNING",
    }


def test_log_has_references_that_are_not_the_checkpoint_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "references.npz"
    np.savez(file, coeff=np.full(119, 0.5))
    transforms = {"normalizer": AGREE, "element_references": {"energy": {"file": str(file)}}}
    path = saved(tmp_path, **{name: tuple(of.values()) for name, of in AGREE.items()})
    found = []
    for value in (None, 0.5, 0.25):
        references = {} if value is None else {"energy": {"element_references": torch.full((119,), value)}}
        torch.save(torch.load(path, weights_only=False) | {"elementrefs": references}, path)
        made = trainer(tmp_path, None, dataset={"train": {"transforms": transforms}})
        made.load_checkpoint(str(path))
        found.append([text for text in caplog.messages if text.startswith("Element references in use")])
        caplog.clear()
    start = "Element references in use for output energy are those of the"
    assert found == [
        [f"{start} configuration; the checkpoint has none"],
        [],
        [f"{start} checkpoint, which differ from the configuration's"],
    ]


def test_a_training_that_is_done_is_refused(source: str, tmp_path: Path) -> None:
    """One whose last evaluation was interrupted makes up for that, and then is done."""
    trainer(tmp_path, AGREE, source).train()
    path, best = (tmp_path / "checkpoints/run" / name for name in ("checkpoint.pt", "best_checkpoint.pt"))
    done = path.read_bytes()
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["step"] == 2
    torch.save(checkpoint | {"val_metrics": None, "best_val_metric": 1e9}, path)
    best.unlink()
    interrupted = trainer(tmp_path, AGREE, source)
    interrupted.load_checkpoint(str(path))
    interrupted.train()
    assert best.exists()
    path.write_bytes(done)
    again = trainer(tmp_path, AGREE, source)
    again.load_checkpoint(str(path))
    message = r"nothing is left to train: .* epoch 1 \(step 2\), and optim.max_epochs=1; raise it"
    with pytest.raises(InputError, match=message):
        again.train()
    assert path.read_bytes() == done
    more = trainer(tmp_path, AGREE, source, optimizer={**OPTIM, "max_epochs": 2})
    more.load_checkpoint(str(path))
    more.train()
    assert more.step == 4


def test_float64_of_the_calculator_is_refused(tmp_path: Path) -> None:
    """fairchem's calculator rounds positions to float32, whatever the weights are."""
    path = saved(tmp_path, **{name: tuple(of.values()) for name, of in AGREE.items()})
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.calc = OCPCalculator(checkpoint_path=path, cpu=True, seed=0)
    assert atoms.get_forces().shape == (4, 3)
    torch.set_default_dtype(torch.float64)
    atoms.calc = OCPCalculator(checkpoint_path=path, cpu=True, seed=0)
    with pytest.raises(InputError, match=r"positions are torch.float32 and weights torch.float64; expected"):
        atoms.get_potential_energy()
