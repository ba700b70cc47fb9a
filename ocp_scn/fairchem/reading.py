"""Functions of fairchem's modules that read files, replaced in these modules by ones that run nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ocp_scn.npz import Npz


def with_load(module: ModuleType, load: Callable[..., Any]) -> ModuleType:
    """Return a copy of a module in which ``load`` is another function."""
    found = ModuleType(module.__name__)
    found.__dict__.update(vars(module), load=load)
    return found


def load_arrays(path: str | Path, **_: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file, as ``numpy.load`` does, but no pickles in it.

    Raises:
        InputError: for a file that cannot be read, or that has something else than numbers and texts.
    """
    file = Npz(Path(path))
    return {name: file[name] for name in file.keys}
