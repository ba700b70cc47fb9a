"""The folders of a run, and what the system says where there can be none."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ocp_scn.errors import InputError


def run_folder(run_dir: str, name: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return Path(run_dir) / "checkpoints" / name


def outcome_folder(run_dir: str, name: str, mode: str) -> Path:
    """Return the folder of what a run is for: of a training its checkpoints, of other modes their results."""
    return run_folder(run_dir, name) if mode == "train" else Path(run_dir) / "results" / name


def checkpoint_path(config: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a run goes on with; a training goes on from the one of its own name."""
    path: str | None = config.get("checkpoint")
    if path is None and config.get("timestamp_id"):
        own = run_folder(config["run_dir"], config["timestamp_id"]) / "checkpoint.pt"
        path = str(own) if own.is_file() else None
    return path


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
