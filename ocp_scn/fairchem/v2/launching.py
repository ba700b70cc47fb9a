"""A rank of a run of fairchem-core 2, whose log is kept and of which little is printed."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import torch
from fairchem.core.launchers.api import DeviceType, RunType, SchedulerType
from fairchem.core.launchers.slurm_launch import SlurmSPMDProgram
from hydra.errors import InstantiationException
from submitit import JobEnvironment
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission
from torch.distributed.elastic.multiprocessing.errors import record

from ocp_scn.errors import InputError
from ocp_scn.fairchem.console import introduce, kept, near, terminal
from ocp_scn.fairchem.files import refusals_as_input_errors
from ocp_scn.fairchem.ranks import own_message
from ocp_scn.fairchem.v2.runner import input_error, refuse

log = logging.getLogger(__name__)


class Rank(SlurmSPMDProgram):
    """A rank as fairchem runs it: of a run on this machine, or a task of a job, to which submitit sends it.

    Args:
        mode: what the user calls the run.
        everything: print all that the first rank logs.
    """

    def __init__(self, mode: str, *, everything: bool) -> None:
        super().__init__()
        self._mode, self._everything, self._interrupted = mode, everything, False

    def __call__(self, config: Any, run_type: RunType = RunType.RUN) -> None:
        """Run a configuration; in a job, end the process where the user can mend what was wrong.

        Raises:
            InputError: for that, outside of jobs.
        """
        in_job = config.job.scheduler.mode == SchedulerType.SLURM
        rank = JobEnvironment().global_rank if in_job else int(os.environ.get("RANK", "0"))
        try:
            self._run(config, run_type, rank)
        except InputError as error:
            if not in_job:
                raise
            refuse(error)
        except UncompletedJobError as error:  # at one time limit too many
            refuse(InputError(str(error)))
        except BaseException:
            if self._interrupted:  # while torch wrote or read a checkpoint, which wraps submitit's exit
                sys.exit(-1)
            raise

    def _run(self, config: Any, run_type: RunType, rank: int) -> None:
        job, folder = config.job, run_folder(config.job)
        with terminal(everything=self._everything and rank == 0, silent=rank > 0), kept(folder, rank):
            if rank == 0:
                introduce(job.timestamp_id, self._mode, folder, cpu=job.device_type == DeviceType.CPU)
            if job.scheduler.mode == SchedulerType.SLURM:
                check_devices(job, JobEnvironment().local_rank + 1)
            try:
                with refusals_as_input_errors(str(folder)):
                    super().__call__(config, run_type)
            except (InstantiationException, ValueError) as error:
                found = input_error(error)
                if found is None:
                    raise
                raise InputError(own_message(found)) from error

    def checkpoint(self, *args: Any, **options: Any) -> DelayedSubmission:
        """Return the job that goes on with this one, which SLURM is about to end or to preempt."""
        self._interrupted = True
        (config,) = super().checkpoint(*args, **options).args
        saved = config.job.runner_state_path
        begins = near(Path(saved).resolve()) if saved else "the beginning"
        log.info(f"SLURM interrupts the job; requeued, it goes on from {begins}")
        return DelayedSubmission(Rank(self._mode, everything=self._everything), config)


def run_folder(job: Any) -> Path:
    """Return the folder of a run, in which fairchem writes its configuration."""
    return Path(job.metadata.config_path).parent


def rank_of(mode: str, *, everything: bool) -> Any:
    """Return `run_rank` for a run; launchers send it to other processes, and ask for its name."""
    return update_wrapper(partial(run_rank, mode=mode, everything=everything), run_rank)


@record
def run_rank(config: Any, run_type: RunType = RunType.RUN, *, mode: str, everything: bool) -> None:
    """Run a rank on this machine; see `Rank`."""
    Rank(mode, everything=everything)(config, run_type)


def check_devices(job: Any, ranks: int) -> None:
    """Raise `InputError` if there are fewer GPUs than ranks of this node that need one."""
    found = torch.cuda.device_count()
    if job.device_type == DeviceType.CUDA and found < ranks:
        raise InputError(
            f"job.device_type=CUDA with {ranks} rank(s) needs as many GPUs, but {found} are visible; "
            "job.device_type=CPU uses none"
        )
