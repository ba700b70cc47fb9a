"""Batches in which only some structures are labelled: losses and metrics are those of the labelled ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from fairchem.core.modules.evaluator import Evaluator
from fairchem.core.modules.loss import DDPLoss
from fairchem.core.modules.normalization.element_references import create_element_references
from fairchem.core.modules.normalization.normalizer import create_normalizer
from torch_geometric.data import Data

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.labels import (
    LabelledEvaluator,
    LabelledLoss,
    LabelledTrainer,
    _free_atoms_named,
    collate,
)
from ocp_scn.fairchem.v1.lmdb import to_graph
from ocp_scn.report.figures import plot_parity
from ocp_scn.report.metrics import errors_of, metrics
from ocp_scn.report.predictions import read_targets
from tests.samples import write_lmdb

TARGETS = ("energy", "forces")
METRICS = {
    "energy": ["mae", "mse", "per_atom_mae", "energy_within_threshold"],
    "forces": ["mae", "forcesx_mae", "cosine_similarity", "magnitude_error"],
    "misc": ["energy_forces_within_threshold"],
}
SIZES = (2, 3, 1, 4, 2)


def samples() -> list[Data]:
    """Return systems of SIZES atoms; the first atom of larger ones is fixed."""
    generator = np.random.default_rng(0)
    found = []
    for sid, size in enumerate(SIZES):
        atoms = Atoms("OHCHN"[:size], positions=generator.uniform(0, 5, (size, 3)), cell=[6, 6, 6], pbc=True)
        atoms.set_constraint(FixAtoms([0]) if size > 2 else None)
        forces = generator.normal(size=(size, 3))
        found.append(to_graph(atoms, energy=float(generator.normal()), forces=forces, sid=sid))
    return found


def without(data: Data, *names: str) -> Data:
    copy = data.clone()
    for name in names:
        del copy[name]
    return copy


def batch_of(*found: Data) -> Any:
    return collate(found, targets=TARGETS, otf_graph=True)


def trainer(loss: str = "mae", *, free: bool = True) -> LabelledTrainer:
    """Return a trainer without a run: what it takes for losses and metrics, normalised and referred."""
    found = LabelledTrainer.__new__(LabelledTrainer)
    found.device = torch.device("cpu")
    found.output_targets = {
        "energy": {"level": "system"},
        "forces": {"level": "atom", "train_on_free_atoms": free, "eval_on_free_atoms": free},
    }
    found.normalizers = {"energy": create_normalizer(mean=0.5, stdev=2.0)}
    references = {"element_references": torch.arange(101.0)}
    found.elementrefs = {"energy": create_element_references(state_dict=references)}
    found.config = {"loss_functions": [{"energy": {"fn": loss, "coefficient": 2}}]}
    found.config["loss_functions"].append({"forces": {"fn": "l2mae", "coefficient": 30}})
    found.load_loss()
    return found


def predictions(batch: Any) -> dict[str, torch.Tensor]:
    """Return predictions by the structures alone, which require gradients."""
    place = batch.pos.sin()
    energy = torch.zeros(len(batch.natoms)).index_add(0, batch.batch, place.sum(1))
    return {"energy": energy[:, None].requires_grad_(), "forces": (2 * place).requires_grad_()}


CASES = [  # what each of five systems lacks
    [(), ("energy",), (), ("energy",), ()],
    [(), ("forces",), (), ("energy", "forces"), ()],
    [("energy", "forces"), (), ("forces",), (), ("energy",)],
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", ["mae", "mse", "per_atom_mae"])
@pytest.mark.parametrize("free", [True, False])
def test_loss_is_that_of_the_labelled_systems(case: list[tuple[str, ...]], loss: str, free: bool) -> None:
    whole, ours = samples(), trainer(loss, free=free)
    batch = batch_of(*(without(data, *names) for data, names in zip(whole, case, strict=True)))
    out = predictions(batch)
    found = ours._compute_loss(out, batch)
    found.backward()
    expected = 0.0
    for number, target in enumerate(TARGETS):
        labelled = batch_of(*(data for data, names in zip(whole, case, strict=True) if target not in names))
        alone = trainer(loss, free=free)
        alone.loss_functions = alone.loss_functions[number : number + 1]
        expected = expected + alone._compute_loss(predictions(labelled), labelled).item()
    assert found.item() == pytest.approx(expected, rel=1e-6)
    for target in TARGETS:
        lacking = torch.tensor([target in names for names in case])
        rows = lacking if target == "energy" else lacking[batch.batch]
        assert out[target].grad.isfinite().all()
        assert not out[target].grad[rows].any()
        assert out[target].grad[~rows].any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("free", [True, False])
def test_metrics_are_those_of_the_labelled_systems(case: list[tuple[str, ...]], free: bool) -> None:
    whole, ours = samples(), trainer(free=free)
    batch = batch_of(*(without(data, *names) for data, names in zip(whole, case, strict=True)))
    out = {name: value.detach() for name, value in predictions(batch).items()}
    names_of = dict(METRICS)
    if not free:
        del names_of["misc"]  # which fairchem counts over free atoms alone
    found = ours._compute_metrics(out, batch, Evaluator(eval_metrics=names_of), {})
    for name, functions in names_of.items():
        needed = TARGETS if name == "misc" else (name,)
        labelled = [data for data, names in zip(whole, case, strict=True) if not set(needed) & set(names)]
        alone = batch_of(*labelled)
        out = {key: value.detach() for key, value in predictions(alone).items()}
        plain = super(LabelledTrainer, ours)._compute_metrics
        expected = plain(out, alone, Evaluator(eval_metrics={name: functions}), {})
        assert len(expected) == len(functions)
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=1e-6), key


def test_a_batch_without_labels_has_no_loss_and_no_metrics_yet() -> None:
    first, second = samples()[:2]
    ours, batch = trainer(), batch_of(without(first, *TARGETS), without(second, "forces"))
    out = predictions(batch)
    loss = ours._compute_loss(out, batch)
    loss.backward()
    assert loss.item() > 0
    assert not out["forces"].grad.any()
    evaluator = Evaluator(eval_metrics=METRICS)
    metrics = ours._compute_metrics(out, batch, evaluator, {})
    assert np.isnan(metrics["forces_mae"]["metric"])
    assert metrics["energy_mae"]["numel"] == 1
    known = batch_of(first)
    both = ours._compute_metrics(predictions(known), known, evaluator, metrics)
    alone = ours._compute_metrics(predictions(known), known, evaluator, {})
    assert both["forces_mae"] == alone["forces_mae"]
    assert both["energy_mae"]["numel"] == 2


def test_a_batch_without_a_free_atom_is_named() -> None:
    """fairchem cannot compare the forces of none, of training or of evaluation."""
    batch = batch_of(*samples()[:2])
    batch.fixed[:] = 1
    for compute in (
        trainer()._compute_loss,
        partial(trainer()._compute_metrics, evaluator=Evaluator(eval_metrics=METRICS)),
    ):
        with pytest.raises(
            InputError, match="all atoms of the systems 0, 1 are fixed, and the forces of free"
        ):
            compute(predictions(batch), batch)
    assert trainer(free=False)._compute_loss(predictions(batch), batch).isfinite()
    with pytest.raises(RuntimeError, match="another fault"), _free_atoms_named(batch):
        raise RuntimeError("another fault")


def test_a_loss_of_another_rank_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank whose batch has no label takes part in the sum over ranks."""
    reduced = []
    monkeypatch.setattr(
        "fairchem.core.modules.loss.distutils",
        SimpleNamespace(all_reduce=lambda n, **_: reduced.append(n) or n + 4, get_world_size=lambda: 2),
    )
    loss = LabelledLoss(DDPLoss("mae", reduction="mean"))
    prediction = torch.ones(3, 1, requires_grad=True)
    value = loss(prediction, torch.full((3, 1), torch.nan), natoms=torch.tensor([1, 2, 3]))
    assert (value.item(), reduced) == (0.0, [0])
    value.backward()
    assert not prediction.grad.any()


def test_batches_of_labelled_samples_are_those_of_fairchem() -> None:
    whole = samples()
    batch = batch_of(*whole)
    assert batch.energy.tolist() == pytest.approx([data.energy for data in whole])
    assert torch.equal(batch.forces, torch.cat([data.forces for data in whole]))
    bare = collate([without(whole[0], "energy")], targets=("forces",), otf_graph=True)
    assert "energy" not in bare


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda value: torch.tensor([value])])
def test_samples_keep_what_they_have(kind: Any) -> None:
    first, second = samples()[:2]
    first.energy = kind(first.energy)
    lacking = without(second, *TARGETS)
    batch = batch_of(first, lacking)
    assert batch.energy.isnan().tolist() == [False, True]
    assert batch.forces.isnan().all(dim=1).tolist() == [False] * 2 + [True] * 3
    assert not set(TARGETS) & set(lacking.keys())


@pytest.mark.parametrize(
    ("name", "value"), [("energy", torch.nan), ("forces", torch.full((2, 3), torch.inf))]
)
def test_a_label_that_is_not_finite_is_no_missing_one(name: str, value: Any) -> None:
    first, second = samples()[:2]
    first[name] = value
    with pytest.raises(InputError, match=f"system 0 has {name} with numbers that are not finite"):
        batch_of(first, second)


def test_a_report_compares_what_is_labelled(tmp_path: Path) -> None:
    """Its metrics are fairchem's, each of the structures with the labels that it compares."""
    whole = samples()
    some = [without(data, *names) for data, names in zip(whole, CASES[1], strict=True)]
    write_lmdb(tmp_path / "some", some)
    targets = read_targets(str(tmp_path / "some"))
    assert targets.forces is not None
    rng = np.random.default_rng(0)
    near = rng.choice([0.01, 0.1], len(whole))  # of which some are within the thresholds
    energy = np.nan_to_num(targets.energy) + near
    forces = np.nan_to_num(targets.forces) + 0.01 * rng.choice([1.0, 5.0], targets.forces.shape, p=[0.9, 0.1])
    names = {
        "energy": ["mae", "energy_within_threshold"],
        "forces": ["mae", "cosine_similarity"],
        "misc": ["energy_forces_within_threshold"],
    }
    natoms = torch.as_tensor(targets.free_atoms)
    both = ({"energy": energy, "forces": forces}, {"energy": targets.energy, "forces": targets.forces})
    arrays = [{name: torch.as_tensor(value) for name, value in part.items()} for part in both]
    found = LabelledEvaluator(eval_metrics=names).eval(*({**part, "natoms": natoms} for part in arrays))
    expected = {name: value["metric"] for name, value in found.items()}
    assert metrics(errors_of(energy, forces, targets)) == pytest.approx(expected, rel=1e-5)
    plot_parity(tmp_path / "parity.png", {"force [eV/Å]": (targets.forces, forces)})
    assert (tmp_path / "parity.png").stat().st_size > 0
