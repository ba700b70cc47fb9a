"""The commands that read files, run in this process as their users run them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import torch

from ocp_scn.data.__main__ import main as data_main
from ocp_scn.predict import main as predict_main
from ocp_scn.submission.__main__ import main as submission_main
from ocp_scn.submission.archive import SPLITS
from ocp_scn.trained import ELEMENTS_KEY
from tests.hostile.sources import FAIRCHEM2, digest

if FAIRCHEM2:
    from ocp_scn.checkpoint import main as checkpoint_main
    from ocp_scn.data.aselmdb import read_rows
else:
    from ocp_scn.fairchem.v1.launcher import main as fairchem_main
    from ocp_scn.fairchem.v1.lmdb import read_data_set
    from ocp_scn.report.command import main as report_main


@dataclass(frozen=True)
class Command:
    """A command that reads a file.

    Attributes:
        run: reads the file at a path, writes to another path, and returns the exit status.
        result: returns a checksum of what was read, from what was written and printed.
        whole: what it writes is whole or not there.
    """

    run: Callable[[Path, Path], int]
    result: Callable[[Path, str], str]
    whole: bool = True


def _convert(path: Path, out: Path) -> int:
    source = path.with_name("frames.extxyz.xz") if path.name.endswith(".txt") else path
    kind = "aselmdb" if FAIRCHEM2 else "lmdb"
    return data_main(["convert", str(source), str(out), "--format", kind])


def _converted(out: Path, _: str) -> str:
    samples = []
    if FAIRCHEM2:
        for atoms, data in read_rows(sorted((out / "train").glob("*.aselmdb"))):
            samples.append({**atoms.arrays, **data, **atoms.calc.results, "cell": atoms.cell.array})
    else:
        samples = [sample.to_dict() for sample in read_data_set(str(out / "train"))]
        samples = [{**sample, "id": None} for sample in samples]  # fairchem's, by the place in the file
    return digest(sorted(samples, key=lambda sample: (str(sample["sid"]), sample["fid"])))


def _fairchem(mode: str, path: Path, out: Path, *words: str) -> int:
    folder = next(parent for parent in path.parents if (parent / "config.yml").exists())
    config = str(folder / "config.yml")
    data = "train" if mode == "train" else "test"
    words = ("--mode", mode, "--config-yml", config, "--cpu", "--run-dir", str(out), *words)
    if path.suffix != ".yml":  # else the file says it
        words = (*words, f"--dataset.{data}.src={folder / 'data'}")
    return fairchem_main(["--timestamp-id", "one", *words])


def _train(path: Path, out: Path) -> int:
    return _fairchem("train", path, out)


def _trained(out: Path, _: str) -> str:
    checkpoint = torch.load(out / "checkpoints/one/checkpoint.pt", weights_only=False)
    return digest([checkpoint["state_dict"], checkpoint["config"].get(ELEMENTS_KEY)])


def _predict(path: Path, out: Path) -> int:
    checkpoint = next(parent for parent in path.parents if (parent / "config.yml").exists()) / "checkpoint.pt"
    return _fairchem("predict", path, out, "--checkpoint", str(checkpoint))


def _predicted(out: Path, _: str) -> str:
    return _in_order(next(out.glob("results/one/*.npz")))


def _predict_file(path: Path, out: Path) -> int:
    checkpoint = str(path.with_name("checkpoint.pt"))
    return predict_main([checkpoint, str(path), "-o", f"{out}.extxyz", "--device", "cpu"])


def _predicted_file(out: Path, _: str) -> str:
    found = ase.io.read(f"{out}.extxyz", ":")
    return digest([{**atoms.arrays, **atoms.calc.results, "cell": atoms.cell.array} for atoms in found])


def _report(path: Path, _: Path) -> int:
    run = next(parent for parent in path.parents if (parent / "run").is_dir()) / "run"
    os.chdir(run.parent)  # the checkpoint names its data set relative to this; a case is a process of its own
    return report_main([str(run)])


def _reported(out: Path, _: str) -> str:
    return digest((out.parent / "in/run/report/metrics.json").read_text())


def _write(path: Path, out: Path) -> int:
    words = [
        word
        for split in SPLITS
        for word in (f"--{split.replace('_', '-')}", str(path.with_name(f"{split}.npz")))
    ]
    return submission_main(["write", "s2ef", str(out.with_suffix(".npz")), "--format", "evalai", *words])


def _written(out: Path, _: str) -> str:
    return _in_order(out.with_suffix(".npz"))


def _check(path: Path, _: Path) -> int:
    return submission_main(["check", str(path)])


def _checked(_: Path, printed: str) -> str:
    return digest(printed.split(":", 1)[1])


def _translate(path: Path, out: Path) -> int:
    return checkpoint_main(["convert", str(path), str(out)])


def _translated(out: Path, _: str) -> str:
    found = torch.load(out, weights_only=False)
    if isinstance(found, dict):
        return digest([found["state_dict"], found["normalizers"]])
    return digest([found.model_state_dict, found.ema_state_dict, str(found.tasks_config)])


def _in_order(path: Path) -> str:
    with np.load(path) as found:
        return digest(dict(found))


COMMANDS = {"convert": Command(_convert, _converted)}
if FAIRCHEM2:
    COMMANDS["translate"] = Command(_translate, _translated)
else:
    COMMANDS |= {
        "train": Command(_train, _trained, whole=False),
        "predict": Command(_predict, _predicted, whole=False),
        "predict a file": Command(_predict_file, _predicted_file),
        "report": Command(_report, _reported, whole=False),
        "write": Command(_write, _written),
        "check": Command(_check, _checked),
    }
