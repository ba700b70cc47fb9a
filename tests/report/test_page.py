"""The page of a report: what is on it, what is not, and that it needs nothing else."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

from ocp_scn.report import figures
from ocp_scn.report.command import main, write_report
from ocp_scn.report.losses import read_log, step_losses
from tests.report.conftest import predictions, structure
from tests.samples import write_lmdb

HOSTILE = '<script>alert(1)</script><img src="http://x/y.png">&"\'$\\frac{\ud800'


class Page(HTMLParser):
    """The tags of a page with their attributes, its headings and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        self.text += data


def tagged(samples: list[Any]) -> list[Any]:
    """Return samples with elements and tags: the last atom is an adsorbed O, or H of every third."""
    for sample in samples:
        sample.atomic_numbers = torch.tensor([29] * (sample.natoms - 1) + [1 if sample.sid % 3 == 0 else 8])
        sample.tags = torch.tensor([0] + [1] * (sample.natoms - 2) + [2])
    return samples


def test_every_section_is_there(run_dir, samples, tmp_path):
    """With figures in the page, and as PNG and PDF beside it."""
    write_lmdb(tmp_path / "data/val", tagged(samples))
    write_report(run_dir)
    page, folder = Page(run_dir / "report/report.html"), run_dir / "report"
    for heading in ("Results", "S2EF: val", "Relaxations: relax", "Training", "Settings", "Parity", "Errors"):
        assert heading in page.text
    for heading in ("By element", "By adsorbate", "By tag", "Largest errors", "Data", "Versions", "Commands"):
        assert heading in page.text
    for name in ("parity", "errors", "within", "elements", "adsorbates", "tags", "worst"):
        assert (folder / f"{name}_s2ef_val.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}_s2ef_val.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "loss_s2ef.pdf").is_file()
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) > 20
    assert len([tag for tag, attributes in page.tags if attributes.get("class") == "card"]) == 20
    assert not [path for path in folder.iterdir() if path.name.endswith(".part")]


def test_the_page_needs_no_network_and_runs_nothing(run_dir):
    write_report(run_dir)
    page = Page(run_dir / "report/report.html")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))
    assert "url(" not in (run_dir / "report/report.html").read_text(encoding="utf-8")


def test_hostile_names_are_texts(run_dir, samples, tmp_path):
    """Those of structures, of a data set's folder, of the run and of its settings."""
    for sample in samples:
        sample.sid = f"{HOSTILE}{sample.sid}"
    folder = tmp_path / "data" / "<b>val$"
    write_lmdb(folder, samples)
    config = torch.load(run_dir / "checkpoints/mine/checkpoint.pt", weights_only=False)
    config["config"]["val_dataset"]["src"] = str(folder)
    config["config"]["cmd"] = {"identifier": HOSTILE, "version": HOSTILE}
    torch.save(config, run_dir / "checkpoints/mine/checkpoint.pt")
    forces = [sample.forces[sample.fixed == 0].numpy() for sample in samples]
    found = {
        "ids": np.array([f"{sample.sid}_0" for sample in samples]),
        "energy": np.array([sample.energy for sample in samples]),
        "forces": np.concatenate(forces),
        "chunk_idx": np.cumsum([len(block) for block in forces])[:-1],
    }
    np.savez_compressed(run_dir / "results/predict/ocp_predictions.npz", **found)
    run = run_dir.rename(tmp_path / "<i>run&")
    tables = write_report(run)
    assert tables["s2ef"]["<b>val$"]["model"]["energy_mae"] == pytest.approx(0, abs=1e-6)
    page = Page(run / "report/report.html")
    assert {tag for tag, _ in page.tags} & {"script", "i"} == set()
    assert ("b", {}) in page.tags  # of cards
    assert "<b>val$" in page.text
    assert "<script>alert(1)</script><img" in page.text
    assert all((attributes["src"] or "").startswith("data:") for tag, attributes in page.tags if tag == "img")


@pytest.mark.parametrize("missing", ["results", "logs"])
def test_what_is_missing_is_named_with_its_command(run_dir, missing):
    shutil.rmtree(run_dir / missing)
    tables = write_report(run_dir)
    page = Page(run_dir / "report/report.html")
    if missing == "results":
        assert tables == {}
        assert "There are no predictions to compare" in page.text
        assert "python main.py --mode predict" in page.text
        assert "Parity" not in page.text
        assert "The loss of 20 steps" in page.text
    else:
        assert "There is no loss in" in page.text
        assert "logger: tensorboard" in page.text
        assert "Parity" in page.text


def test_a_data_set_that_is_gone_is_named(run_dir, tmp_path, capsys):
    """Its predictions are left out; without the training set, there is no mean energy to compare with."""
    shutil.rmtree(tmp_path / "data/train")
    tables = write_report(run_dir)
    assert set(tables["s2ef"]["val"]["trivial"]) == {"forces_mae", "forces_cosine_similarity"}
    assert "data/train' of mine does not exist here" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "data/val")
    assert list(write_report(run_dir)) == ["relaxation"]
    assert "Not compared: " in Page(run_dir / "report/report.html").text


def test_a_folder_of_the_other_line_is_known_by_its_configuration(tmp_path):
    """Its settings are shown, and words stand for what is not there."""
    loader = {"dataset": {"dataset_configs": {"oc20": {"splits": {"train": {"src": str(tmp_path / "no")}}}}}}
    tasks = [{"property": "energy", "element_references": None}, {"property": "forces"}]
    runner = {"train_eval_unit": {"tasks": tasks}, "train_dataloader": loader}
    (tmp_path / "first").mkdir()
    (tmp_path / "first/canonical_config.yaml").write_text(yaml.safe_dump({"runner": runner}))
    for folder in (tmp_path, tmp_path / "first"):
        assert write_report(folder) == {}
        page = Page(folder / "report/report.html")
        assert "A run with fairchem-core 2: first." in page.text
        assert "ocp_scn.fairchem.v2.LossLog" in page.text
        assert "configs/fairchem2/predict.yaml" in page.text
        assert "no' of first does not exist here" in page.text
    (tmp_path / "first/canonical_config.yaml").write_text("runner: {train_eval_unit: 3}")
    assert main([str(tmp_path)]) == 2


def test_files_of_predictions_from_elsewhere(run_dir, samples, tmp_path, capsys):
    path = tmp_path / "elsewhere.npz"
    (run_dir / "results/predict/ocp_predictions.npz").rename(path)
    assert list(write_report(run_dir)) == ["relaxation"]
    assert list(write_report(run_dir, predictions=[path])) == ["s2ef", "relaxation"]
    assert main([str(run_dir), "--predictions", str(tmp_path / "none.npz")]) == 2
    assert "none.npz cannot be read" in capsys.readouterr().err


def test_groups_have_the_errors_of_their_structures(run_dir, samples, tmp_path):
    """By element, adsorbate and tag, whatever the order of the predictions."""
    write_lmdb(tmp_path / "data/val", tagged(samples))
    found = predictions(samples)
    found["energy"] = found["energy"].astype(np.float64)
    ends = [0, *found["chunk_idx"], len(found["forces"])]
    for k, sample in enumerate(samples):  # wrong by 1 eV and, on the adsorbate alone, by 2 eV/Å
        hydrogen = sample.sid % 3 == 0
        found["energy"][k] = sample.energy + hydrogen
        found["forces"][ends[k] : ends[k + 1]] = sample.forces[1:].numpy()
        found["forces"][ends[k + 1] - 1] += 2 * hydrogen
    order = np.random.default_rng(1).permutation(len(samples))
    blocks = np.split(found["forces"], found["chunk_idx"])
    shuffled = {
        "ids": found["ids"][order],
        "energy": found["energy"][order],
        "forces": np.concatenate([blocks[k] for k in order]),
        "chunk_idx": np.cumsum([len(blocks[k]) for k in order])[:-1],
    }
    np.savez_compressed(run_dir / "results/predict/ocp_predictions.npz", **shuffled)
    write_report(run_dir)
    text = (run_dir / "report/report.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert ["H", "4", "1", "4", "2"] in rows
    assert ["O", "8", "0", "8", "0"] in rows
    assert ["Cu", "12", "0.3333", str(sum(s.natoms - 2 for s in samples)), "0"] in rows
    assert ["adsorbate (2)", "12", "0.6667"] in rows
    (sections,) = re.findall(r"S2EF: val</h2>(.*?)</section>", text, re.DOTALL)
    names = re.findall(r"<b>\d+\. (\d+)_0</b>", sections)
    assert {int(name) % 3 for name in names[:4]} == {0}  # the worst four are those with hydrogen
    assert len(names) == 10


def test_the_loss_of_every_step_is_found_in_fairchems_means(run_dir):
    """Also over an interruption, which begins a mean and makes some steps anew."""
    folder = run_dir / "logs/tensorboard/other"
    losses = np.random.default_rng(0).uniform(1, 9, 60)
    for name, steps in (("a", range(1, 36)), ("b", range(31, 61))):
        with SummaryWriter(str(folder / name)) as writer:
            writer.file_writer.add_event(
                Event(step=steps[0], session_log=SessionLog(status=SessionLog.START))
            )
            since: list[float] = []
            for step in steps:
                since.append(losses[step - 1] + (100 if name == "a" and step > 30 else 0))
                writer.add_scalar("train/loss", np.mean(since), step)
                since = [] if step % 20 == 0 else since
        next((folder / name).iterdir()).rename(folder / f"{name}.tfevents")  # named by the time else
    log = read_log(folder)
    assert log is not None
    found = step_losses(log, 20)
    assert found is not None
    np.testing.assert_array_equal(found.steps, np.arange(1, 61))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert step_losses(log, 7) is None  # the means began anew at other steps


def test_many_points_are_drawn_as_their_density(tmp_path):
    x = np.random.default_rng(0).normal(size=5000)
    (panel,) = figures.plot_parity(tmp_path / "a.png", {"energy [eV]": (x, x + 0.1)})
    assert panel.startswith(b"\x89PNG")
    figure, axis = figures.plt.subplots()
    at_once, figures._AT_ONCE = figures._AT_ONCE, 999
    try:
        figures._density(axis, x, x + 0.1, (-5, 5))
        counts = axis.collections[0].get_array()
        assert len(axis.collections) == 1
        assert counts.sum() == 5000
    finally:
        figures._AT_ONCE = at_once
        figures.plt.close(figure)


def test_a_structure_with_atoms_of_no_element(run_dir, samples, tmp_path):
    """It has a group of its own."""
    samples[3].atomic_numbers = torch.tensor([29] * (samples[3].natoms - 1) + [0])
    write_lmdb(tmp_path / "data/val", samples)
    assert structure(3, 0.0).natoms == samples[3].natoms
    write_report(run_dir)
    assert "<td>X</td>" in (run_dir / "report/report.html").read_text(encoding="utf-8")
