"""What is said where one of several ranks has ended: in one line, by the rank that knows why."""

from __future__ import annotations

import re
import signal
import time

from ocp_scn.signals import ending

STATUSES_OF_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# What gloo and NCCL say in ranks that go on where one has ended.
_LOST_RANK = re.compile(
    "[Cc]onnection (closed|reset) by|Connection refused|remote process exited|Broken pipe"
)
_FIRST_WORD = 10.0  # seconds, for a rank to say it and to end


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


def killed(rank: int, exitcode: int) -> str | None:
    """Return which signal killed a rank, if one did."""
    if exitcode >= 0:
        return None
    name = signal.Signals(-exitcode).name
    return f"rank {rank} was killed by {name}" + (", as for want of memory" if name == "SIGKILL" else "")
