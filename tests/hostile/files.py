"""Hostile files: good ones of every kind, damaged, and read by the command that reads them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.hostile import damages, sources
from tests.hostile.commands import COMMANDS
from tests.hostile.damages import Damage
from tests.hostile.outcomes import Verdict, under_test, verdict_of

# Damages that give another good file, by which what is read may change. In another order, predictions are
# computed in other batches, which rounds them otherwise.
_BITS = frozenset({"bits flipped"})
_TEXT = _BITS | {"cut short"}
_MORE = frozenset({"appended to itself"})
# How many forces the last structure has, the data sets say, which these commands do not get.
_FORCES = frozenset({"a force missing"})


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its path in a folder.
        make: writes a good one, and what goes with it, into a folder.
        command: reads it; one of `COMMANDS`.
        damages: what is done to it beside `damages.ANY`.
        hidden: damages that the format cannot show, as it has no checksums.
    """

    file: str
    make: Callable[[Path], object]
    command: str
    damages: Mapping[str, Damage]
    hidden: frozenset[str] = frozenset()


class Case(NamedTuple):
    """A case: a kind's name, the kind, and a damage with its name."""

    name: str
    kind: Kind
    what: str
    damage: Damage


def kinds() -> dict[str, Kind]:
    """Return the kinds that the installed line of fairchem reads."""
    return _of_fairchem2() if sources.FAIRCHEM2 else _of_fairchem1()


def cases() -> list[Case]:
    """Return every damage of every kind, in a mixed order that is always the same."""
    found = [
        Case(name, kind, what, damage)
        for name, kind in kinds().items()
        for what, damage in {**damages.ANY, **kind.damages}.items()
    ]
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))]


def _of_frames(
    file: str,
    command: str,
    write: Callable[[Path, list[Any]], None],
    more: Mapping[str, Damage],
    hidden: Collection[str] = (),
) -> Kind:
    """Return a kind of file whose frames a function writes, which can be wrong too."""

    def make(folder: Path) -> None:
        write(folder / file, sources.frames())

    return Kind(file, make, command, {**damages.of_frames(write), **more}, frozenset(hidden))


def _of_structures(file: str, more: Mapping[str, Damage], hidden: frozenset[str]) -> Kind:
    """Return a kind of file with structures and nothing else, which have no ids."""
    return Kind(file, lambda folder: sources.write_structures(folder / file), "predict a file", more, hidden)


def _of_fairchem1() -> dict[str, Kind]:
    xyz = {**damages.TEXT, "many atoms declared": damages.declared_atoms}
    packed = {**xyz, "a bomb": damages.packed_bomb}
    frames = {"many frames declared": damages.declared_frames}
    samples = {**damages.of_frames(sources.write_data_set), **damages.PICKLES}
    epoch = {what: damage for what, damage in samples.items() if what != "another order"}
    tags = {**damages.TEXT, "a tag that calls": damages.tagged_yaml}
    crystal = {**damages.TEXT, "a line missing": damages.lost_line, "a mixed site": damages.mixed_site}
    vasp = {**damages.TEXT, "a line missing": damages.lost_line, "many atoms": damages.declared_by_element}
    report, results = "run/results/one/s2ef_predictions.npz", damages.RESULTS
    run, train = sources.write_run, sources.write_training
    return {
        "extxyz": _of_frames("a.extxyz", "convert", sources.write_xyz, xyz, _TEXT),
        "extxyz.gz": _of_frames("a.extxyz.gz", "convert", sources.write_xyz, packed),
        "extxyz.xz": _of_frames("a.extxyz.xz", "convert", sources.write_xyz, packed),
        "OC20 extxyz.xz": Kind("frames.extxyz.xz", sources.write_pair, "convert", packed),
        "OC20 txt": Kind("frames.txt", sources.write_pair, "convert", damages.TEXT, _TEXT),
        "traj": _of_frames("a.traj", "convert", sources.write_trajectory, frames, _BITS),
        "db": _of_frames("a.db", "convert", sources.write_database, {}, _BITS),
        "json": _of_frames("a.json", "convert", sources.write_database, damages.TEXT, _TEXT),
        "CIF": _of_structures("a.cif", crystal, _TEXT | _MORE),
        "POSCAR": _of_structures("POSCAR", vasp, _TEXT),
        "XDATCAR": _of_structures("XDATCAR", vasp, _TEXT | _MORE),
        "lmdb": _of_frames("data.lmdb", "convert", sources.write_data_set, damages.PICKLES, _BITS),
        "lmdb, trained on": Kind("data/data.lmdb", train, "train", epoch, _BITS),
        "lmdb, predicted": Kind("data/data.lmdb", train, "predict", samples, _BITS | {"another order"}),
        "metadata.npz": Kind("data/metadata.npz", train, "train", damages.ARRAYS),
        "elements.npz": Kind(
            "data/elements.npz", train, "train", damages.ARRAYS, frozenset({"a row missing"})
        ),
        "checkpoint, predicts": Kind("checkpoint.pt", train, "predict", damages.CHECKPOINTS),
        "YAML": Kind("config.yml", train, "train", tags, _TEXT),
        "predictions, reported": Kind(report, run, "report", results),
        "checkpoint, reported": Kind("run/checkpoints/one/checkpoint.pt", run, "report", damages.CHECKPOINTS),
        "lmdb, reported": Kind("data/data.lmdb", run, "report", samples, _BITS),
        "predictions, submitted": Kind("id.npz", sources.write_splits, "write", results, _FORCES),
        "submission, checked": Kind("a.npz", sources.write_submission, "check", results, _FORCES),
    }


def _of_fairchem2() -> dict[str, Kind]:
    checkpoints = damages.CHECKPOINTS
    return {
        "aselmdb": _of_frames("data.0000.aselmdb", "convert", sources.write_data_set, damages.ROWS, _BITS),
        "checkpoint of 1": Kind("a.pt", sources.write_checkpoint, "translate", checkpoints),
        "checkpoint of 2": Kind("a.pt", sources.write_inference_checkpoint, "translate", checkpoints),
    }


def make(case: Case, samples: Path) -> Path:
    """Write the good file of a case's kind below a folder, where it is not yet; return its folder."""
    good = samples / case.name.replace(" ", "_")
    if not good.exists():
        (good / case.kind.file).parent.mkdir(parents=True)
        case.kind.make(good)
    return good


def judge(case: Case, good: Path, expected: str | None, folder: Path, random: np.random.Generator) -> Verdict:
    """Return the verdict on what a command makes of a damaged file.

    Args:
        case: the case.
        good: the folder with the good file, of `make`.
        expected: checksum of what is read from it; None to find that out (``why`` of the verdict).
        folder: an empty one, to work in.
        random: of the damage.
    """
    marker, out = folder / "marker", folder / "made"
    shutil.copytree(good, folder / "in")
    path = folder / "in" / case.kind.file
    if expected is not None:
        case.damage(path, random, marker)
    before, command = _content(path), COMMANDS[case.kind.command]
    os.chdir(folder)
    with _captured(folder) as said, under_test():
        try:
            status = command.run(path, out)
        except (Exception, SystemExit) as error:  # none of them should be
            status = verdict_of(error)
    if marker.exists():
        return Verdict("code")
    if isinstance(status, Verdict):
        return status
    printed, complained = said()
    if _content(path) != before:
        return Verdict("silent", "the file has changed")
    if status:
        return _refusal(status, printed, complained, path, out, case)
    return _reading(command.result(out, printed), expected, case)


def _reading(found: str, expected: str | None, case: Case) -> Verdict:
    if expected in (None, found):
        return Verdict("correct", found)
    hidden = case.what in case.kind.hidden
    return Verdict("unseen" if hidden else "silent", "read as if nothing were wrong")


def _refusal(status: int, printed: str, complained: str, path: Path, out: Path, case: Case) -> Verdict:
    lines = [line for line in complained.splitlines() if line.startswith("error: ")]
    if status == 1 and "fault: " in printed:
        return Verdict("refused", next(line for line in printed.splitlines() if "fault: " in line).strip())
    if status != 2 or len(lines) != 1 or "Traceback" in printed + complained:
        return Verdict("traceback", f"status {status}: {complained[-300:]}")
    left = [] if not COMMANDS[case.kind.command].whole else [p.name for p in out.parent.glob(f"*{out.name}*")]
    if left:
        return Verdict("silent", f"refused, but leaves {left}")
    names = {
        path.name,
        path.name.split(".")[0] + "#",
        str(path.parent),
        f"data set {path.parent.name!r}",
        f"{path.parent.name}: sample",
        "system s",
        "systems s",
        "split 'train'",
        f" {path.stem}: ",  # a split of a submission
        "s2ef_predictions.npz",  # whose ids are not those of a data set
    }
    if path.suffix != ".yml" and not any(name in lines[0] for name in names):  # YAML: the key
        return Verdict("unnamed", lines[0])
    return Verdict("refused", lines[0])


def _content(path: Path) -> Any:
    return path.read_bytes() if path.is_file() else sorted(path.iterdir())


@contextmanager
def _captured(folder: Path) -> Iterator[Callable[[], tuple[str, str]]]:
    """Send what this process prints to files of a folder; yield what returns it."""
    paths = [folder / "stdout", folder / "stderr"]
    for number, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)

    def said() -> tuple[str, str]:
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (path.read_text(errors="replace") for path in paths)
        return out, err

    yield said
