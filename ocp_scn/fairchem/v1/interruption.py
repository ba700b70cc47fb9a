"""What a job does when SLURM is about to end it: finish the step, then save and requeue."""

from __future__ import annotations

import logging
import signal
from typing import Any

from submitit import JobEnvironment

log = logging.getLogger(__name__)
WARNING = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
# What would end a process that is still importing waits until there are handlers.
HELD_BACK = {signal.SIGTERM, WARNING}


class Interruption:
    """SLURM's warning before a time limit or a preemption, answered between two batches.

    submitit answers it at once, wherever the process is: in the middle of the optimiser's step, in an
    evaluation with averaged weights, or in a process that only loads data. Here the signal is noted,
    and the loop over batches calls `answer`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handler: Any = None

    def take_over(self) -> None:
        """Stand in for the handler that submitit has installed, and let in what was held back until now."""
        self._handler = signal.getsignal(WARNING)
        signal.signal(WARNING, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    def _note(self, number: int, frame: Any) -> None:
        # Nothing else: processes that load data inherit this, and may be signalled too.
        self.requested = True

    def answer(self) -> None:
        """Let submitit save, requeue and end this process, if a signal has come."""
        if self.requested:
            log.info("SLURM ends this job soon: saving and requeueing it")
            self._handler(WARNING, None)


interruption = Interruption()
