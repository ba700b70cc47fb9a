"""Command lines whose mistakes end in one line, and options whose numbers are checked."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ocp_scn.errors import InputError, memory_fault
from ocp_scn.signals import Signalled, ending

_ENDED = "no file is half written, and the same command begins anew"


class Parser(argparse.ArgumentParser):
    """A parser that ends with status 2 and one line, as these commands do for all bad input.

    Descriptions and examples keep their lines.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def status_of(work: Callable[[], int | None]) -> int:
    """Do a command's work; return its exit status, 0 if the work has none, 2 after a line on bad input.

    SIGTERM and SIGINT end it where it is, with a line and the shell's status of a signal.
    """
    try:
        with ending.raised():
            return work() or 0
    except Signalled as signalled:
        ending.say(signalled.number, _ENDED)
        return 128 + signalled.number
    except InputError as error:
        message = str(error)
    except MemoryError as error:
        message = memory_fault(error)
    print(f"error: {message}", file=sys.stderr)
    return 2


def integer(least: int | None = None) -> Callable[[str], int]:
    """Return what reads an integer for ``add_argument(type=...)``: one of at least ``least``."""
    expected = "an integer" if least is None else f"an integer of at least {least}"

    def read(text: str) -> int:
        found = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None
        if found is None or (least is not None and found < least):
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {expected}")
        return found

    return read


def number(*, above: float, up_to: float) -> Callable[[str], float]:
    """Return what reads a finite number in the range (above, up_to], for ``add_argument(type=...)``."""
    expected = f"a number above {above:g}, up to {up_to:g}"

    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not above < found <= up_to:
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {expected}")
        return found

    return read
