"""Trajectories of ASE, of which ASE itself reads the first where several were put together."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ase.io
from ase import Atoms

_START = b"- of Ulm"


def read_trajectory(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file that is one trajectory, in order.

    Raises:
        ValueError: for a second trajectory behind the first; what ASE raises for a damaged one.
    """
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
        if content.find(_START, 1) > 0:
            raise ValueError("it has a second trajectory behind the first; a file has to be one")
    yield from ase.io.iread(path, index=":", format="traj")
