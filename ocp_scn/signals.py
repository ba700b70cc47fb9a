"""SIGTERM and SIGINT (Ctrl-C): answered between two batches of a run, by other commands where they are."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Launchers of several ranks pass a signal on that a terminal has sent to the ranks as well: that is one.
_SAME = 2.0  # seconds


class Signalled(SystemExit):
    """A signal that ends a command where it is; on its way out, files are closed and unfinished ones go."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)  # the shell's status of a signal
        self.number = number


class Ending:
    """The signal that is to end this process; a second one ends it at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since, self._otherwise, self._raises = 0.0, "", False

    def watch(self, otherwise: str) -> None:
        """Note the signals from now on; ``otherwise`` says what becomes of a run that saves nothing."""
        self.number, self._otherwise, self._raises = None, otherwise, False
        self._take()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise `Signalled` where a signal finds the block, up to where it may call `watch`."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.number, self._raises = None, True
        self._take()
        try:
            yield
        finally:
            self.number = None  # what comes next in this process has not been signalled
            for number, answer in before.items():
                signal.signal(number, answer)

    def _take(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & have it
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Little: processes that load data inherit this, and a terminal signals them too.
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if self._raises:
                raise Signalled(number)
        elif time.monotonic() - self._since > _SAME:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def say(self, number: int, what: str | None = None) -> None:
        """Print in one line that a signal ended the process, and ``what`` became of its work."""
        # Above a bar, where there is one.
        tqdm.write(f"ended by {signal.Signals(number).name}: {what or self._otherwise}", file=sys.stderr)

    def end(self, number: int, what: str | None = None, *, silent: bool = False) -> NoReturn:
        """End the process with the shell's status of a signal; say ``what`` became of the run."""
        if not silent:
            self.say(number, what)
        sys.exit(128 + number)


ending = Ending()
