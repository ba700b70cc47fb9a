"""Why a run of several ranks ended, for the process that has launched them."""

from __future__ import annotations

import re
import signal
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ocp_scn.errors import InputError

STATUSES_OF_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def cause_in_rank(error: ChildFailedError) -> str | None:
    """Return the message of an InputError or the signal that ended a rank, if that is what happened."""
    rank, failure = error.get_first_failure()
    message: Any = failure.message
    text = message["message"] if isinstance(message, dict) else message
    # A line of its own: where a rank's traceback is quoted, it ends with the exception.
    found = re.search(rf"\b{InputError.__name__}: (.+)", text)
    if found:  # also where gloo aborted the process at its end
        return found[1]
    if failure.exitcode >= 0:
        return None
    name = signal.Signals(-failure.exitcode).name
    return f"rank {rank} was killed by {name}" + (", as for want of memory" if name == "SIGKILL" else "")


def own_message(error: InputError) -> str:
    """Return an error's message; one from a process that loads data quotes the traceback there."""
    return str(error).strip().rsplit(f"{InputError.__name__}: ", 1)[-1]
