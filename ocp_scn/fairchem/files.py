"""The folders of a run, and files that a reader finds whole or not at all, whenever the run is killed."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ocp_scn.errors import InputError

# What the system answers where a user has to make room or choose another folder.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def run_folder(run_dir: str, name: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(run_dir) / "checkpoints" / name


def claim_run_name(args: Any) -> str:
    """Return ``--timestamp-id``, or else the time and ``--identifier``, having made the run's folder.

    fairchem's own name counts in steps of two minutes, and a training that finds the folder of
    another one resumes from its checkpoint.

    Raises:
        InputError: where nothing can be written.
    """
    first = "_run0" if args.sweep_yml else ""  # the first run of a sweep stands for all
    name = args.timestamp_id
    try:
        if name is not None:
            folder = run_folder(args.run_dir, name + first)
            folder.mkdir(parents=True, exist_ok=True)
        else:
            time_and_identifier = [time.strftime("%Y-%m-%d-%H-%M-%S"), *filter(None, [args.identifier])]
            name, folder = _new_folder(args.run_dir, "-".join(time_and_identifier), first)
    except OSError as error:
        raise InputError(
            f"--run-dir {args.run_dir}: {error.filename} cannot be made: {error.strerror}"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"--run-dir {args.run_dir}: {folder} is not writable")
    return name


def _new_folder(run_dir: str, stem: str, ending: str) -> tuple[str, Path]:
    """Make the folder of a run whose name no other run has, not even one that starts now."""
    for number in itertools.count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        folder = run_folder(run_dir, name + ending)
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return name, folder


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path``; what is written there takes the file's place when it is complete.

    Raises:
        InputError: where it cannot be written; the file that was there before stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut may leave the new name with no content
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch raises RuntimeError, without the system's number, for a file that it cannot write.
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        part.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {_cause(error, path.parent)}") from error


@contextmanager
def refusals_as_input_errors(folder: str) -> Iterator[None]:
    """Turn what the system says of a full disk or a forbidden folder into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise InputError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def _cause(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    free = shutil.disk_usage(folder).free / 2**20
    return f"{str(error).splitlines()[0]} ({free:.1f} MiB are free)"
