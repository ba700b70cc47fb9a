"""Folders that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocp_scn.errors import InputError


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a working folder that becomes ``target`` when the block ends, or vanishes when it fails.

    Raises:
        InputError: if ``target`` exists and ``overwrite`` is not set.
    """
    if target.exists() and not overwrite:
        raise InputError(f"{str(target)!r} exists; name another folder or pass --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
