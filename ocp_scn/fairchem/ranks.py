"""What is said where one of several ranks has ended: in one line, by the rank that knows why."""

from __future__ import annotations

import re
import signal
import time
import uuid
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig

from ocp_scn.errors import InputError
from ocp_scn.signals import ending

STATUSES_OF_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# What gloo and NCCL say in ranks that go on where one has ended.
_LOST_RANK = re.compile(
    "[Cc]onnection (closed|reset) by|Connection refused|remote process exited|Broken pipe"
)
_FIRST_WORD = 10.0  # seconds, for a rank to say it and to end


def launch_config(**settings: Any) -> LaunchConfig:
    """Return torch's settings of ranks on one machine, which meet at a free port of their own.

    By default, and so in fairchem-core 1.10, the ranks of all runs on a machine meet at one port.
    """
    return LaunchConfig(**settings, rdzv_endpoint="localhost:0", run_id=str(uuid.uuid4()))


def lost_rank(error: BaseException) -> str | None:
    """Return what an error says of another rank that has ended, if it does."""
    found = isinstance(error, RuntimeError) and _LOST_RANK.search(str(error))
    return str(error).splitlines()[0] if found else None


def leave_the_first_word() -> None:
    """Wait for the rank that knows more to say it and to end, whereupon the launcher ends this one."""
    limit = time.monotonic() + _FIRST_WORD
    while time.monotonic() < limit:
        if ending.number is not None:
            ending.end(ending.number, silent=True)
        time.sleep(0.05)


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
