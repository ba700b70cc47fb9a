"""What convert does by itself: splits, references and the configuration of a training that fits the data."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairchem.core.common.flags import flags
from fairchem.core.datasets import LmdbDataset

from ocp_scn import SCNConfig
from ocp_scn.data import recipe
from ocp_scn.data.__main__ import main
from ocp_scn.data.conversion import Report
from ocp_scn.data.recipe import LARGE, MEDIUM, SMALL, recipe_for
from ocp_scn.data.splits import automatic_rules, split_of
from ocp_scn.fairchem.v1.checks import check_run
from ocp_scn.fairchem.v1.launcher import load_config
from tests.calculations import write_calculations

ROOT = Path(__file__).parents[2]
Convert = Callable[..., str]


def ids(folder: Path) -> set[tuple[str, int]]:
    return {(sample.sid, sample.fid) for sample in LmdbDataset({"src": str(folder)})}


def configuration(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "train.yml").read_text())


def experiment(name: str) -> dict[str, Any]:
    """Return an experiment of the project, with what it includes."""
    words = ["--mode", "train", "--config-yml", name]
    return load_config(*flags.get_parser().parse_known_args(words))


@pytest.fixture
def convert(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Convert calculations into ``out``; return what was printed, or the one error."""

    def run(frames: int, *words: str, status: int = 0, **kind: object) -> str:
        source = write_calculations(tmp_path / "mine.extxyz", frames, **kind)
        assert main(["convert", str(source), str(tmp_path / "out"), *words]) == status
        printed = capsys.readouterr()
        if status == 0:
            return printed.out
        (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        return line

    monkeypatch.chdir(ROOT)  # where configurations include each other
    return run


def is_ready(folder: Path) -> bool:
    """Tell whether a training with the written file passes all checks."""
    words = ["--mode", "train", "--config-yml", str(folder / "train.yml"), "--run-dir", str(folder), "--cpu"]
    check_run(load_config(*flags.get_parser().parse_known_args(words)))
    return True


def test_systems_are_kept_together_where_there_are_several(convert: Convert, tmp_path: Path) -> None:
    printed = convert(60, systems=20)
    found = {name: ids(tmp_path / "out" / name) for name in ("train", "val", "test")}
    assert {name: len(of_split) for name, of_split in found.items()} == {"train": 48, "val": 6, "test": 6}
    systems = [{sid for sid, _ in of_split} for of_split in found.values()]
    assert sum(map(len, systems)) == len(set().union(*systems)) == 20
    assert "split by system: of 20, 2 for val and 2 for test" in printed
    assert is_ready(tmp_path / "out")


def test_one_system_is_split_by_frame_and_that_is_said(convert: Convert, tmp_path: Path) -> None:
    printed = convert(30)
    found = [ids(tmp_path / "out" / name) for name in ("train", "val", "test")]
    assert list(map(len, found)) == [24, 3, 3]
    assert set().union(*found) == {("mine", fid) for fid in range(30)}
    assert "split by frame, as 'sid' and files name 1 system: of 30, 3 for val and 3 for test" in printed
    assert json.loads((tmp_path / "out/conversion.json").read_text())["split"] in printed


@pytest.mark.parametrize("frames", [1, 9])
def test_few_frames_are_all_for_training(convert: Convert, tmp_path: Path, frames: int) -> None:
    """And nothing in the configuration asks for other data."""
    printed = convert(frames)
    assert f"no validation: {frames} frames are too few to spare any" in printed
    assert list(configuration(tmp_path / "out")["dataset"]) == ["train"]
    assert is_ready(tmp_path / "out")


def test_rules_that_are_asked_for_are_followed(convert: Convert, tmp_path: Path) -> None:
    assert "split by" not in convert(20, "--split", "none")
    assert len(ids(tmp_path / "out/train")) == 20
    assert list(configuration(tmp_path / "out")["dataset"]) == ["train"]
    convert(20, "--split", "val_id=every:5:0", "--split", "val_ood=every:5:1", "--overwrite")
    data = configuration(tmp_path / "out")["dataset"]
    assert {name: Path(of_split["src"]).name for name, of_split in data.items()} == {
        "train": "train",
        "val": "val_id",
    }
    printed = convert(20, "--split", "held=every:5:0", "--overwrite")
    assert "nothing validates the training: there is no split val" in printed
    convert(40, "--split-by", "frame", "--overwrite", systems=20)
    assert len({sid for sid, _ in ids(tmp_path / "out/train")}) > 18
    line = convert(20, "--split-by", "system", "--overwrite", status=2)
    assert line.endswith("--split-by system: there is one system; --split-by frame splits it")


def test_a_data_set_is_not_split_anew(convert: Convert, tmp_path: Path) -> None:
    """It is a part of a split already."""
    convert(20, "--split", "none")
    assert main(["convert", str(tmp_path / "out/train"), str(tmp_path / "again")]) == 0
    assert len(ids(tmp_path / "again/train")) == 20


@pytest.mark.parametrize("sizes", [[1] * 10, [5] * 3, [90, 5, 5], [1, 2, 3, 400] * 5])
@pytest.mark.parametrize("seed", range(3))
def test_every_split_has_frames_and_training_most(sizes: list[int], seed: int) -> None:
    frames = [(f"s{system}", fid) for system, size in enumerate(sizes) for fid in range(size)]
    elements = [{1, 8}] * len(frames)
    rules, _ = automatic_rules(frames, elements, by=None, seed=seed)
    found = Counter(split_of(sid, fid, rules) for sid, fid in frames)
    assert all(found[name] > 0 for name in ["train", *rules])
    assert found["train"] > len(frames) / 2
    again, _ = automatic_rules(frames[::-1], elements, by=None, seed=seed)
    assert all(split_of(*frame, again) == split_of(*frame, rules) for frame in frames)


@pytest.mark.parametrize("seed", range(5))
def test_no_element_is_lost_to_training(seed: int) -> None:
    """Of systems with an element each, frames are kept; of frames with an element each, none."""
    frames = [(f"s{k // 4}", k % 4) for k in range(40)]
    rare = [{1, 8} if k % 10 else {1, 20 + k} for k in range(40)]
    rules, words = automatic_rules(frames, rare, by=None, seed=seed)
    assert words.startswith("split by system")
    trained = [rare[k] for k in range(40) if split_of(*frames[k], rules) == "train"]
    assert set().union(*trained) == set().union(*rare)
    own = [{30 + k // 4} for k in range(40)]
    rules, words = automatic_rules(frames, own, by=None, seed=seed)
    assert words.startswith(
        "split by frame, as each system has an element that no other has: of 40, 4 for val"
    )
    trained = [own[k] for k in range(40) if split_of(*frames[k], rules) == "train"]
    assert set().union(*trained) == set().union(*own)
    rules, words = automatic_rules(frames, [{k + 1} for k in range(40)], by=None, seed=seed)
    assert rules == {}
    assert words.startswith("no validation: each frame has an element that no other has")


def test_energies_alone_are_trained_where_that_is_asked(convert: Convert, tmp_path: Path) -> None:
    """By default their lack is an error: forces may be there under another name."""
    assert "no forces; --labels energy does without forces" in convert(20, status=2, labels=("energy",))
    convert(20, "--labels", "energy", labels=("energy",))
    found = configuration(tmp_path / "out")
    assert list(found["outputs"]) == ["energy"]
    assert found["model"]["regress_forces"] is False
    assert found["evaluation_metrics"]["primary_metric"] == "energy_mae"
    assert is_ready(tmp_path / "out")


def test_without_energies_there_is_no_training(convert: Convert, tmp_path: Path) -> None:
    assert "no energy" in convert(20, status=2, labels=("forces",))
    assert "no energy" in convert(20, "--labels", "energy", status=2, labels=("forces",))
    printed = convert(20, "--labels", "optional", labels=("forces",))
    assert "no configuration of a training: no training frame has an energy" in printed
    assert not (tmp_path / "out/train.yml").exists()


def test_molecules_need_no_cell(convert: Convert, tmp_path: Path) -> None:
    assert "references of H, C, N, O" in convert(24, periodic=False)
    assert is_ready(tmp_path / "out")


def test_scales_and_references_are_those_of_the_training_frames(convert: Convert, tmp_path: Path) -> None:
    convert(30)
    transforms = configuration(tmp_path / "out")["dataset"]["train"]["transforms"]
    written = json.loads((tmp_path / "out/conversion.json").read_text())
    assert transforms["normalizer"] == written["normalizer"]
    file = transforms["element_references"]["energy"]["file"]
    assert file == str(tmp_path / "out/references.npz")
    assert Path(file).is_file()
    convert(30, "--references", "fit", "--subtract-references", "--overwrite")
    assert list(configuration(tmp_path / "out")["dataset"]["train"]["transforms"]) == ["normalizer"]


def test_frames_that_are_alike_are_not_scaled_up(convert: Convert, tmp_path: Path) -> None:
    """One frame has a mean, and nothing to divide by."""
    convert(1)
    scale = configuration(tmp_path / "out")["dataset"]["train"]["transforms"]["normalizer"]
    assert scale["energy"]["stdev"] == scale["forces"]["stdev"] > 0.1
    assert math.isfinite(scale["energy"]["mean"])


def test_the_next_command_is_the_last_line(convert: Convert, tmp_path: Path) -> None:
    last = convert(30).splitlines()[-1]
    assert last.startswith(f"next: ocp-scn train --config {tmp_path / 'out/train.yml'} ")
    assert last.endswith(" --report")
    words = ["--mode", "train", *last.split()[3:-1]]
    check_run(load_config(*flags.get_parser().parse_known_args(words)))


def report_of(frames: int, atoms: int) -> Report:
    """Return the report of a conversion of training frames of so many atoms each."""
    return Report(
        frames=Counter(train=frames),
        atoms=Counter(train=frames * atoms),
        largest=atoms,
        labelled={"train": Counter(energy=frames, forces=frames)},
        energy=[-1.0, 1.0],
        forces_sum2=1.0,
        forces_count=1,
    )


@pytest.mark.parametrize(
    ("frames", "atoms", "size"),
    [(20, 3, SMALL), (1800, 20, SMALL), (20_000, 50, MEDIUM), (400_000, 70, LARGE)],
)
def test_the_model_and_the_training_grow_with_the_data(frames: int, atoms: int, size: recipe.Size) -> None:
    found = recipe_for(report_of(frames, atoms), max_num_elements=90)
    assert found.size is size
    schedule = found.schedule(found.batch_size)
    assert schedule.steps >= size.steps
    assert schedule.steps_of_epoch >= 8
    assert 100 <= schedule.milestones[0] < schedule.milestones[-1] < schedule.steps
    assert found.batch_size * atoms <= 1.1 * size.atoms_of_step
    assert found.max_atoms >= atoms


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE], ids=lambda size: size.name)
def test_settings_are_those_of_an_experiment(size: recipe.Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which results are on record; small crystals have more neighbours than the example's surfaces."""
    monkeypatch.chdir(ROOT)
    known = experiment(size.like)
    expected = {name: value for name, value in known["model"].items() if name != "name"}
    if size is SMALL:
        expected["max_num_neighbors"] = 20
    assert SCNConfig.from_settings({**size.model, "otf_graph": True}) == SCNConfig.from_settings(expected)
    losses = {name: loss for entry in known["loss_functions"] for name, loss in entry.items()}
    assert size.coefficients == (losses["energy"]["coefficient"], losses["forces"]["coefficient"])
    optim = known["optim"]
    assert (size.lr, size.warmup_steps, size.ema_decay) == (
        optim["lr_initial"],
        optim["warmup_steps"],
        optim["ema_decay"],
    )


def test_a_small_training_is_that_of_the_example(convert: Convert, tmp_path: Path) -> None:
    """But for the data, their scales, and what follows from their number."""
    convert(30)
    found, known = configuration(tmp_path / "out"), experiment("configs/s2ef/example/scn.yml")
    for name in ("trainer", "outputs", "loss_functions", "evaluation_metrics", "logger"):
        assert found[name] == known[name]
    own = {"batch_size", "eval_batch_size", "lr_milestones", "max_epochs"}
    assert {name: value for name, value in found["optim"].items() if name not in own} == {
        name: value for name, value in known["optim"].items() if name not in own
    }
    assert found["task"] == {**known["task"], "relaxation_steps": 300}
