"""Jobs of SLURM: what is asked for, the runs of a sweep, and how the ranks of a job meet."""

from __future__ import annotations

import copy
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from submitit import AutoExecutor, JobEnvironment

from ocp_scn.errors import InputError
from ocp_scn.fairchem.jobs import SRUN_ARGUMENTS
from ocp_scn.fairchem.v1.interruption import HELD_BACK

# Below the ports that systems give to outgoing connections.
_FIRST_PORT, _PORTS = 10000, 20000

_HOLD_SIGNALS_BACK = (
    "import os, signal, sys; "
    f"signal.pthread_sigmask(signal.SIG_BLOCK, {sorted(map(int, HELD_BACK))}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class JobExecutor(AutoExecutor):
    """submitit's executor, asking SLURM for what a run needs: no GPU with ``--cpu``."""

    def __init__(self, folder: Path, *, cpu: bool, **options: Any) -> None:
        python = shlex.join([sys.executable, "-c", _HOLD_SIGNALS_BACK])
        super().__init__(folder, cluster="slurm", slurm_python=python, **options)
        self._cpu = cpu

    def update_parameters(self, **request: Any) -> None:
        """Take the request that fairchem makes of its command line."""
        if self._cpu:
            del request["gpus_per_node"]
        super().update_parameters(**request, slurm_srun_args=SRUN_ARGUMENTS)


def rank_environment() -> dict[str, str]:
    """Return the variables that torch's launcher would set, for this task of a job.

    The port follows from the job's number, so that jobs that share a node do not share a port.
    """
    task = JobEnvironment()
    return {
        "MASTER_ADDR": task.hostnames[0],
        "MASTER_PORT": str(_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _PORTS),
        "WORLD_SIZE": str(task.num_tasks),
        "RANK": str(task.global_rank),
        "LOCAL_RANK": str(task.local_rank),
    }


def was_requeued() -> bool:
    """Return whether this job has started before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def sweep_configs(config: Mapping[str, Any], file: str | Path) -> list[dict[str, Any]]:
    """Return a configuration for every combination of the values that a sweep's file lists.

    Each is a run of its own: ``_run0``, ``_run1``, … end its identifier and the name of its folders.

    Raises:
        InputError: for a file that cannot be read, or a key that has no list of values.
    """
    try:
        sweep = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--sweep-yml {file}: {' '.join(str(error).split())}") from error
    if not isinstance(sweep, Mapping) or not sweep:
        raise InputError(f"--sweep-yml {file}: expected keys of the configuration, got {sweep!r}")
    paths, values = zip(*_swept(sweep, str(file)), strict=True)
    configs = []
    for number, combination in enumerate(itertools.product(*values)):
        chosen = copy.deepcopy(dict(config))
        for path, value in zip(paths, combination, strict=True):
            _set(chosen, path, value, str(file))
        chosen["identifier"] += f"_run{number}"
        chosen["timestamp_id"] += f"_run{number}"
        configs.append(chosen)
    return configs


def _swept(
    sweep: Mapping[str, Any], file: str, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield (path of keys, values) of every key of a sweep that has a list."""
    for key, value in sweep.items():
        path = (*above, str(key))
        if isinstance(value, Mapping):
            yield from _swept(value, file, path)
        elif isinstance(value, list) and value:
            yield path, value
        else:
            raise InputError(f"--sweep-yml {file}: {'.'.join(path)}={value!r}; expected a list of values")


def _set(config: dict[str, Any], path: tuple[str, ...], value: Any, file: str) -> None:
    section: Any = config
    for key in path[:-1]:
        section = section.get(key) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise InputError(f"--sweep-yml {file}: the configuration has no section {'.'.join(path[:-1])}")
    section[path[-1]] = value
