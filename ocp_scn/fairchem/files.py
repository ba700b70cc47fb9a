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

RELAXED_FILE = "relaxed_positions.npz"  # in a run's results, of all that was relaxed
# What the system answers where a user has to make room or choose another folder.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def run_folder(run_dir: str, name: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(run_dir) / "checkpoints" / name


def claimed_folder(args: Any) -> Path:
    """Return the folder that a command line's name is claimed with; a sweep's first run stands for all."""
    return run_folder(args.run_dir, args.timestamp_id + ("_run0" if args.sweep_yml else ""))


def claim_run_name(args: Any) -> None:
    """Make the run's folder; set ``--timestamp-id``, where there is none, to the time and ``--identifier``.

    fairchem's own name counts in steps of two minutes, and a training that finds the folder of
    another one resumes from its checkpoint.

    Raises:
        InputError: where nothing can be written.
    """
    try:
        if args.timestamp_id is not None:
            claimed_folder(args).mkdir(parents=True, exist_ok=True)
        else:
            _claim_new_name(args)
    except OSError as error:
        raise InputError(
            f"--run-dir {args.run_dir}: {error.filename} cannot be made: {error.strerror}"
        ) from error
    if not os.access(claimed_folder(args), os.W_OK):
        raise InputError(f"--run-dir {args.run_dir}: {claimed_folder(args)} is not writable")


def _claim_new_name(args: Any) -> None:
    """Make a folder under a name that no other run has, not even one that starts now."""
    stem = "-".join([time.strftime("%Y-%m-%d-%H-%M-%S"), *filter(None, [args.identifier])])
    for number in itertools.count(1):
        args.timestamp_id = stem if number == 1 else f"{stem}-{number}"
        with suppress(FileExistsError):
            claimed_folder(args).mkdir(parents=True)
            return


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
        # torch's writer raises RuntimeError, and does not tell what the system said.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        cause = getattr(error, "strerror", None) or "a write failed"
        raise InputError(f"{path} cannot be written: {cause}, with {free:.1f} MiB free") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def refusals_as_input_errors(folder: str) -> Iterator[None]:
    """Turn what the system says of a full disk or a forbidden folder into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error
