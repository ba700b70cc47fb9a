"""fairchem 2's command line for ``ocp-scn``: few lines on the terminal, the rest in the run's log."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairchem.core import _cli
from fairchem.core.launchers import slurm_launch
from fairchem.core.launchers.api import DeviceType, SchedulerType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.console import kept, terminal
from ocp_scn.fairchem.ranks import STATUSES_OF_SIGNALS, cause_in_rank
from ocp_scn.fairchem.replaced import replaced
from ocp_scn.fairchem.v2.launching import rank_of, run_folder


def run(config: Path, settings: Sequence[str], mode: str, *, verbose: bool = False) -> tuple[int, Path]:
    """Run a configuration as ``fairchem -c`` does; ``--KEY=VALUE`` is the same as ``KEY=VALUE``.

    Args:
        config: the file.
        settings: that replace those of the file.
        mode: what the user calls the run.
        verbose: print all that fairchem logs.

    Returns:
        The exit status, and the run's folder.

    Raises:
        InputError: for what the user can mend, in the settings or in the run.
    """
    unknown = next((word for word in settings if not re.match(r"(--|\+{1,2}|~)?[^-+~=]+=|~", word)), None)
    if unknown is not None:
        raise InputError(f"argument {unknown!r} not understood; settings are written --key.subkey=value")
    composed = _composed(config, [word.removeprefix("--") for word in settings])
    local = composed.job.scheduler.mode == SchedulerType.LOCAL
    if local:
        _check_devices(composed.job)
    folder = run_folder(composed.job)
    everything = verbose or not local
    # fairchem's command line takes this configuration, and runs this package's ranks.
    taken = replaced(_cli, get_hydra_config_from_yaml=lambda *_: composed)
    run_by = replaced(slurm_launch, runner_wrapper=rank_of(mode, everything=everything))
    try:
        # Jobs have logs of their own.
        with terminal(everything=everything), kept(folder if local else None), taken, run_by:
            _cli.main(argparse.Namespace(config=str(config)), [])
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status in STATUSES_OF_SIGNALS:  # of a rank that has said so
            return status, folder
        reason = cause_in_rank(error)
        if reason is None:
            raise
        raise InputError(reason) from error
    except SignalException as error:
        return 128 + error.sigval, folder
    return 0, folder


def _composed(config: Path, words: Sequence[str]) -> Any:
    try:
        found = _cli.get_hydra_config_from_yaml(str(config), list(words))
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: of keys and job
        raise InputError(f"--config {config}: {cause(error)}") from error
    if "runner" not in found:
        raise InputError(f"--config {config} has no section 'runner'")
    return found


def _check_devices(job: Any) -> None:
    """Raise `InputError` if there are fewer GPUs than ranks that need one."""
    ranks, found = job.scheduler.ranks_per_node, torch.cuda.device_count()
    if job.device_type == DeviceType.CUDA and found < ranks:
        raise InputError(
            f"job.device_type=CUDA with {ranks} rank(s) needs as many GPUs, but {found} are visible; "
            "job.device_type=CPU uses none"
        )
