"""SIGTERM and SIGINT (Ctrl-C), answered between two batches."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

# Launchers of several ranks pass a signal on that a terminal has sent to the ranks as well: that is one.
_SAME = 2.0  # seconds


class Ending:
    """The signal that is to end this process once a batch is whole; a second one ends it at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since, self._otherwise = 0.0, ""

    def watch(self, otherwise: str) -> None:
        """Note the signals from now on; ``otherwise`` says what becomes of a run that saves nothing."""
        self._otherwise = otherwise
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & have it
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Nothing else: processes that load data inherit this, and a terminal signals them too.
        if self.number is None:
            self.number, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > _SAME:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def end(self, number: int, what: str | None = None, *, silent: bool = False) -> NoReturn:
        """End the process with the shell's status of a signal; say ``what`` became of the run."""
        if not silent:
            # Above a bar, where there is one.
            tqdm.write(f"ended by {signal.Signals(number).name}: {what or self._otherwise}", file=sys.stderr)
        sys.exit(128 + number)


ending = Ending()
