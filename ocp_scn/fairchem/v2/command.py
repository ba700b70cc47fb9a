"""fairchem 2's command line for ``ocp-scn``: few lines on the terminal, the rest in the run's log."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fairchem.core import _cli
from fairchem.core.launchers import slurm_launch
from fairchem.core.launchers.api import SchedulerType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from submitit import AutoExecutor
from submitit.core.utils import FailedJobError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.console import kept, near, terminal
from ocp_scn.fairchem.jobs import SRUN_ARGUMENTS, check_slurm, refusal_of_slurm
from ocp_scn.fairchem.ranks import STATUSES_OF_SIGNALS, cause_in_rank
from ocp_scn.fairchem.replaced import replaced
from ocp_scn.fairchem.v2.launching import Rank, check_devices, rank_of, run_folder

log = logging.getLogger(__name__)


def run(
    config: Path, settings: Sequence[str], mode: str, *, verbose: bool = False, reports: bool = False
) -> tuple[int, Path]:
    """Run a configuration as ``fairchem -c`` does; ``--KEY=VALUE`` is the same as ``KEY=VALUE``.

    Args:
        config: the file.
        settings: that replace those of the file.
        mode: what the user calls the run.
        verbose: print all that fairchem logs.
        reports: whether a report of the run's folder comes next, for which jobs are too late.

    Returns:
        The exit status, and the run's folder.

    Raises:
        InputError: for what the user can mend, in the settings or in the run.
    """
    unknown = next((word for word in settings if not re.match(r"(--|\+{1,2}|~)?[^-+~=]+=|~", word)), None)
    if unknown is not None:
        raise InputError(f"argument {unknown!r} not understood; settings are written --key.subkey=value")
    composed = _composed(config, [word.removeprefix("--") for word in settings])
    job, folder = composed.job, run_folder(composed.job)
    if job.scheduler.mode == SchedulerType.LOCAL:
        check_devices(job, job.scheduler.ranks_per_node)
    else:
        _check_submission(job, reports=reports)
    everything = verbose or job.scheduler.use_ray  # ray's launcher and its workers are fairchem's
    # fairchem's command line takes this configuration, and runs this package's ranks.
    taken = replaced(_cli, get_hydra_config_from_yaml=lambda *_: composed)
    run_by = replaced(
        slurm_launch,
        runner_wrapper=rank_of(mode, everything=everything),
        SlurmSPMDProgram=partial(Rank, mode, everything=everything),
        AutoExecutor=_Executor,
        slurm_launch=partial(_submit, slurm_launch.slurm_launch, mode),
    )
    try:
        with terminal(everything=everything), kept(folder), taken, run_by:
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


class _Executor(AutoExecutor):
    """submitit's executor, whose jobs end with the first rank that fails."""

    def update_parameters(self, **request: Any) -> None:
        """Take fairchem's request."""
        super().update_parameters(**request, slurm_srun_args=SRUN_ARGUMENTS)


def _submit(launch: Callable[..., list[Any]], mode: str, config: Any, log_dir: str) -> list[Any]:
    """Submit a run as fairchem does, and say where its output will be."""
    try:
        jobs = launch(config, log_dir)
    except FailedJobError as error:
        raise InputError(refusal_of_slurm(error)) from error
    numbers = ", ".join(job.job_id for job in jobs)
    outputs = near(Path(log_dir) / f"{jobs[0].job_id}_0_log.out")
    log.info(f"submitted {config.job.timestamp_id} ({mode}) as job {numbers}, which prints to {outputs}")
    return jobs


def _check_submission(job: Any, *, reports: bool) -> None:
    """Raise `InputError` where a job cannot be submitted, or something is asked for that comes after it."""
    check_slurm("job.scheduler.mode=SLURM")
    if "SLURM_SUBMIT_HOST" in os.environ:
        raise InputError(
            f"job.scheduler.mode=SLURM inside of job {os.environ.get('SLURM_JOB_ID')}: fairchem submits no "
            "job from a job"
        )
    if reports:
        raise InputError(
            "--report does not go with job.scheduler.mode=SLURM; afterwards: ocp-scn report "
            f"{near(run_folder(job))}"
        )
