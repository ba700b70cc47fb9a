"""How many frames files have, without reading them: for the time that is left."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from importlib import import_module
from itertools import islice
from pathlib import Path

from ase.io.trajectory import Trajectory

from ocp_scn.data.files import ERRORS
from ocp_scn.data.texts import open_text
from ocp_scn.data.xyz import XYZ
from ocp_scn.fairchem import sqlite
from ocp_scn.fairchem.files import open_lmdb, sample_count

# Of damaged files, and of formats whose package is not there.
_UNCOUNTED: tuple[type[Exception], ...] = (*ERRORS, ImportError)


def count_frames(files: Iterable[Path]) -> int | None:
    """Return the number of frames of files; None where one is damaged, which reading it says."""
    try:
        return sum(_count(path) for path in files)
    except _UNCOUNTED:
        return None


def _count(path: Path) -> int:
    if path.name.endswith(XYZ):
        return _count_xyz(path)
    if path.suffix == sqlite.SUFFIX:
        with sqlite.connect(path) as database:
            return int(database.count())
    if path.suffix == ".aselmdb":
        with closing(import_module("ocp_scn.fairchem.aselmdb").connect(path)) as database:
            return len(database.ids)
    if path.suffix == ".lmdb":
        with open_lmdb(path) as environment:
            return sample_count(path, environment)
    with Trajectory(path) as trajectory:
        return len(trajectory)


def _count_xyz(path: Path) -> int:
    count = 0
    with open_text(path) as lines:
        for line in lines:
            if not line.lstrip().startswith("VEC"):
                next(islice(lines, int(line), int(line) + 1), None)
                count += 1
    return count
