"""Predictions and relaxations meet their data set by the ids of structures, in whatever order they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ocp_scn.fairchem.v1.relaxations import read_relaxed, write_relaxed
from ocp_scn.report.command import main, write_report
from tests.report.conftest import ERRORS, FORCE_ERROR, STRUCTURES, predictions, structure
from tests.samples import write_lmdb

PREDICTIONS = "results/predict/ocp_predictions.npz"
RELAXED = "results/relax/relaxed_positions.npz"


def refusal(run_dir: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line that the command ends with."""
    capsys.readouterr()
    assert main([str(run_dir), *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def change(path: Path, **changes: Any) -> None:
    """Write some arrays of a file anew."""
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays | changes)


def test_metrics_are_those_of_the_structures_in_any_order(run_dir, samples):
    """Of energies, of forces of different numbers of atoms, and of relaxed structures."""
    rng = np.random.default_rng(0)
    for shuffle in (lambda: np.arange(STRUCTURES), lambda: rng.permutation(STRUCTURES)):
        np.savez_compressed(run_dir / PREDICTIONS, **predictions([samples[k] for k in shuffle()]))
        arrays = dict(np.load(run_dir / RELAXED))
        blocks, order = np.split(arrays["pos"], arrays["chunk_idx"]), shuffle()
        change(
            run_dir / RELAXED,
            ids=arrays["ids"][order],
            energy=arrays["energy"][order],
            pos=np.concatenate([blocks[k] for k in order]),
            chunk_idx=np.cumsum([len(blocks[k]) for k in order])[:-1],
        )
        tables = write_report(run_dir)
        found = tables["s2ef"]["val"]["model"]
        assert found["energy_mae"] == pytest.approx(ERRORS.mean(), abs=1e-6)
        assert found["forces_mae"] == pytest.approx(FORCE_ERROR, abs=1e-6)
        relaxed = tables["relaxation"]["relax"]["model"]
        assert relaxed["is2re_energy_mae"] == pytest.approx(ERRORS.mean(), abs=1e-6)
        assert relaxed["is2rs_positions_mae"] == pytest.approx(0.0, abs=1e-6)


def test_missing_foreign_and_double_ids_of_predictions(run_dir, samples, capsys):
    path = run_dir / PREDICTIONS
    np.savez_compressed(path, **predictions(samples[3:]))
    line = refusal(run_dir, capsys)
    assert "compared with the 12 of 'val', 3 are missing, '0_0', '1_0', '2_0'; pass --data FOLDER" in line
    foreign = structure(7, 1.0, fid=0)
    found = predictions([*samples, foreign])
    found["ids"][-1] = "77_0"
    np.savez_compressed(path, **found)
    assert "1 are in no data set known, '77_0'" in refusal(run_dir, capsys)
    np.savez_compressed(path, **predictions([*samples, samples[4]]))
    assert "id '4_0' comes 2 times" in refusal(run_dir, capsys)
    change(path, ids=np.array([f"x{k}" for k in range(STRUCTURES + 1)]))
    assert "none of its 13 ids is in a data set known" in refusal(run_dir, capsys)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite: positions"), (1e12, "positions beyond")])
def test_structures_that_cannot_be_drawn_are_named(run_dir, samples, value, fault, capsys):
    for sample in samples:  # those with the largest errors are drawn
        sample.pos[1, 2] = value
    write_lmdb(run_dir.parent / "data/val", samples)
    assert re.search(rf"data set '.*/val': structure \d+: {fault}", refusal(run_dir, capsys))


def test_structures_that_are_no_tensors_are_named(run_dir, samples, capsys):
    for sample in samples:
        sample.pos = sample.pos.numpy()
    write_lmdb(run_dir.parent / "data/val", samples)
    assert re.search(
        r"data set '.*/val': structure \d+ has pos=array\(.*; expected", refusal(run_dir, capsys)
    )


def test_elements_without_a_colour_are_drawn(run_dir, samples):
    for sample, element in zip(samples, (110, 118, 119, 200) * 3, strict=True):
        sample.atomic_numbers[0] = element
    write_lmdb(run_dir.parent / "data/val", samples)
    assert write_report(run_dir)["s2ef"]["val"]["model"]["energy_mae"] == pytest.approx(
        ERRORS.mean(), abs=1e-6
    )


def test_missing_foreign_and_double_ids_of_relaxations(run_dir, capsys):
    path = run_dir / RELAXED
    relaxed = read_relaxed(path)
    write_relaxed(path, {sid: relaxed[sid] for sid in list(relaxed)[2:]})
    write_report(run_dir)
    assert "2 of the 12 systems of" in capsys.readouterr().out
    write_relaxed(path, {**relaxed, "700": relaxed["7"]})
    assert "1 of its 13 ids are not in" in refusal(run_dir, capsys)
    write_relaxed(path, {**relaxed, "7": relaxed["8"]})
    assert "relaxed system '7' has 5 atoms, not 4" in refusal(run_dir, capsys)
    write_relaxed(path, relaxed)
    change(path, ids=np.array(["0"] * STRUCTURES))
    assert "1 ids come more than once, '0'" in refusal(run_dir, capsys)


def test_forces_of_other_atoms_than_the_free_ones(run_dir, samples, capsys):
    counts = [int((sample.fixed == 0).sum()) for sample in samples]
    counts[0], counts[1] = counts[0] + 1, counts[1] - 1
    change(run_dir / PREDICTIONS, chunk_idx=np.cumsum(counts)[:-1])
    line = refusal(run_dir, capsys)
    assert "2 structures have forces of other atoms than the free ones; '0_0' has 3, with 2 free" in line


def test_double_ids_of_a_data_set_and_two_sets_of_one_name(run_dir, samples, capsys, tmp_path):
    write_lmdb(tmp_path / "data/val", [*samples, samples[0]])
    assert "1 ids come more than once, '0_0'" in refusal(run_dir, capsys)
    write_lmdb(tmp_path / "other/val", samples)
    assert "have one name" in refusal(run_dir, capsys, "--data", str(tmp_path / "other/val"))


def test_a_data_set_without_energies_is_named(run_dir, samples, capsys, tmp_path):
    """Predictions of a test set without labels leave nothing to compare; the others are reported."""
    for sample in samples:
        del sample.energy, sample.forces
    write_lmdb(tmp_path / "data/val", samples)
    assert list(write_report(run_dir)) == ["relaxation"]
    assert "ocp_predictions.npz, since no structure of 'val' has an energy" in capsys.readouterr().out
    line = refusal(run_dir, capsys, "--data", str(tmp_path / "data/val"))
    assert "data/val' has no structure with an energy" in line


def test_a_checkpoint_that_is_none_of_a_training(run_dir, capsys):
    model = {"name": "ocp_scn"}
    for content, message in (
        ({"state_dict": {}}, "it has no 'config'"),
        (
            {"state_dict": {}, "config": {"model": model, "outputs": 3}},
            "its outputs is 3",
        ),
        (
            {"state_dict": {}, "config": {"model": model, "outputs": {}, "dataset": {}}},
            "names no training set",
        ),
        ([1], "it is a list"),
    ):
        torch.save(content, run_dir / "checkpoints/mine/checkpoint.pt")
        assert re.search(f"checkpoint.pt.*{message}", refusal(run_dir, capsys))
    (run_dir / "checkpoints/mine/checkpoint.pt").unlink()
    assert "has no checkpoints/*/checkpoint.pt" in refusal(run_dir, capsys)


def test_a_record_that_names_no_data_set(run_dir, capsys):
    record = run_dir / "results/relax/relaxations.json"
    for content in ("[]", "{", json.dumps({"src": 3}), "[" * 100_000):
        record.write_text(content)
        assert "relaxations.json" in refusal(run_dir, capsys)
