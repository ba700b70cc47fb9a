"""Every reader of files that users bring: whatever becomes of a file, it is read or refused in one line.

The damage is random with a fixed seed. LMDB files have tests of their own: a reader that follows a damaged
one ends its process.
"""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch.utils.tensorboard import SummaryWriter

from ocp_scn.data.frames import read_frames
from ocp_scn.data.references import LinearReferences
from ocp_scn.errors import InputError
from ocp_scn.fairchem.training_data import elements_of, write_elements
from ocp_scn.fairchem.v1.relaxations import Relaxed, read_record, read_relaxed, write_relaxed
from ocp_scn.report.losses import read_log
from ocp_scn.submission import check_file
from ocp_scn.submission.results import read_results

FRAMES = 6
FLIPS = 25  # damaged copies with one wrong bit


def frames() -> list[Any]:
    """Return molecules with energies and forces."""
    found = []
    for index in range(FRAMES):
        atoms = molecule("H2O", vacuum=3.0)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - index, forces=np.full((3, 3), 0.125))
        found.append(atoms)
    return found


def make_database(path: Path) -> None:
    with ase.db.connect(path) as database:
        for atoms in frames():
            database.write(atoms, data={"y_relaxed": -2.0})


def make_relaxed(path: Path) -> None:
    write_relaxed(path, {name: Relaxed(np.ones((3, 3)), -1.0) for name in "abc"})


def make_predictions(path: Path) -> None:
    arrays = {"ids": np.array(["a", "b"]), "energy": np.ones((2, 1)), "forces": np.ones((4, 3))}
    np.savez_compressed(path, **arrays, chunk_idx=np.array([2]))


def make_submission(path: Path) -> None:
    arrays = {}
    for number, split in enumerate(("id", "ood_ads", "ood_cat", "ood_both")):
        arrays |= {f"{split}_ids": np.array([f"{number}"]), f"{split}_energy": np.ones(1)}
    np.savez_compressed(path, **arrays)


def make_curve(path: Path) -> None:
    with SummaryWriter(str(path.parent / "work")) as writer:
        for step in range(10):
            writer.add_scalar("train/loss", 1.0, step)
    next((path.parent / "work").iterdir()).rename(path)


class DataSet(list):
    """What of a data set of fairchem says where its record of elements is."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder]


def read_all(path: Path) -> None:
    """Read calculations; none may be lost of a file that is cut short anywhere but between two frames."""
    list(read_frames([path]))


Reader = tuple[Callable[[Path], Any], Callable[[Path], Any]]  # what makes a file, and what reads it
READERS: dict[str, Reader] = {
    **{
        name: (lambda path: write(path, frames()), read_all)
        for name in ("a.extxyz", "a.extxyz.xz", "a.xyz.gz", "a.traj")
    },
    "a.db": (make_database, read_all),
    "references.npz": (
        lambda path: LinearReferences(np.array([np.nan, 1.0])).save(path),
        LinearReferences.load,
    ),
    "elements.npz": (
        lambda path: write_elements(path.parent, [1, 8]),
        lambda path: elements_of(DataSet(path.parent)),
    ),
    "relaxed_positions.npz": (make_relaxed, read_relaxed),
    "relaxations.json": (lambda path: path.write_text('{"src": "data/relax"}'), read_record),
    "predictions.npz": (make_predictions, lambda path: read_results([path], "s2ef")),
    "submission.npz": (make_submission, check_file),
    "a.tfevents": (make_curve, lambda path: read_log(path.parent)),
}


def damaged(content: bytes) -> Iterator[bytes]:
    """Yield what may become of a file's content."""
    rng = random.Random(0)
    for part in range(8):
        yield content[: len(content) * part // 8]
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
    for _ in range(4):
        mixed = bytearray(content)
        for place in rng.sample(range(len(content)), min(20, len(content))):
            mixed[place] = rng.randrange(256)
        yield bytes(mixed)
    yield from (rng.randbytes(300), b"a note\nof two lines\n", b"caf\xe9\n", bytes(64), content + b"\xffmore")
    for arrays in ({"x": np.ones(3)}, {name: np.array(["a", True]) for name in ("coeff", "ids", "energy")}):
        file = io.BytesIO()
        np.savez(file, **arrays)
        yield file.getvalue()
    file = io.BytesIO()
    np.save(file, np.ones(3))
    yield file.getvalue()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    make, read = READERS[name]
    path = tmp_path / name
    make(path)
    read(path)
    refused = 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)
            assert name in str(error)
            refused += 1
    assert refused > 8 or name == "a.tfevents"  # of which what is whole is drawn
    path.unlink()
    path.mkdir()
    if name != "elements.npz":  # a record of elements that is no file is none
        with pytest.raises(InputError, match=name):
            read(path)
    shutil.rmtree(path)


def test_what_a_damaged_loss_curve_lacks_is_said(tmp_path):
    path = tmp_path / "a.tfevents"
    make_curve(path)
    assert read_log(tmp_path).lost == []
    path.write_bytes(path.read_bytes()[:-30])
    (line,) = read_log(tmp_path).lost
    assert line.startswith("the loss curve lacks what comes after ")
    assert "a.tfevents, which is damaged" in line
