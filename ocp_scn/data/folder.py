"""Folders that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import refused_writes


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a working folder that becomes ``target`` when the block ends, or vanishes when it fails.

    Raises:
        InputError: if ``target`` exists and ``overwrite`` is not set, or where it cannot be written.
    """
    if target.exists() and not (overwrite and target.is_dir()):
        raise InputError(f"{str(target)!r} exists; name another folder or pass --overwrite")
    work, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    try:
        with refused_writes(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
            work.mkdir()
            yield work
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
            try:
                if target.exists():
                    target.rename(old)
                work.rename(target)
            finally:
                if old.exists() and not target.exists():  # a signal came between the two
                    old.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
