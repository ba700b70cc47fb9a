"""A rank of a run of fairchem-core 2, whose log is kept and of which little is printed."""

from __future__ import annotations

import os
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from fairchem.core.launchers.api import DeviceType, RunType
from fairchem.core.launchers.slurm_launch import SlurmSPMDProgram
from hydra.errors import InstantiationException
from torch.distributed.elastic.multiprocessing.errors import record

from ocp_scn.errors import InputError
from ocp_scn.fairchem.console import introduce, kept, terminal
from ocp_scn.fairchem.files import refusals_as_input_errors
from ocp_scn.fairchem.ranks import own_message
from ocp_scn.fairchem.v2.runner import input_error


def run_folder(job: Any) -> Path:
    """Return the folder of a run, in which fairchem writes its configuration."""
    return Path(job.metadata.config_path).parent


def rank_of(mode: str, *, everything: bool) -> Any:
    """Return `run_rank` for a run; launchers send it to other processes, and ask for its name."""
    return update_wrapper(partial(run_rank, mode=mode, everything=everything), run_rank)


@record
def run_rank(config: Any, run_type: RunType = RunType.RUN, *, mode: str, everything: bool) -> None:
    """Run a rank as fairchem does.

    Args:
        config: the whole configuration.
        run_type: what fairchem's launcher asks for.
        mode: what the user calls the run.
        everything: print all that the first rank logs.

    Raises:
        InputError: for what the user can mend.
    """
    rank, folder = int(os.environ.get("RANK", "0")), run_folder(config.job)
    with terminal(everything=everything and rank == 0, silent=rank > 0), kept(folder, rank):
        if rank == 0:
            cpu = config.job.device_type == DeviceType.CPU
            introduce(config.job.timestamp_id, mode, folder, cpu=cpu)
        try:
            with refusals_as_input_errors(str(folder)):
                SlurmSPMDProgram()(config, run_type)
        except (InstantiationException, ValueError) as error:
            found = input_error(error)
            if found is None:
                raise
            raise InputError(own_message(found)) from error
