"""What both lines ask of SLURM for their jobs, and what is said where it refuses."""

from __future__ import annotations

import shutil

from submitit.core.utils import FailedJobError

from ocp_scn.errors import InputError

# Without it, the other ranks of one that failed wait until their collectives time out.
SRUN_ARGUMENTS = ["--kill-on-bad-exit=1"]


def check_slurm(option: str) -> None:
    """Raise `InputError` if there is no SLURM for what the user wrote; submitit would run it here."""
    if shutil.which("srun") is None:
        raise InputError(f"{option} needs SLURM, but there is no srun on the PATH")


def refusal_of_slurm(error: FailedJobError) -> str:
    """Return what sbatch said, of a message that also has its command and the call."""
    said = [line.split("error: ", 1)[1] for line in str(error).splitlines() if "sbatch: error: " in line]
    return f"SLURM did not take the job: {'; '.join(said) or str(error).splitlines()[-1]}"
