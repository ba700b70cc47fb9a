"""The exceptions for input that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad settings, data or files; the message names the received value and what is expected.

    The commands print it as one line and end with status 2.
    """


class UnreadableError(InputError):
    """A file or a frame that is damaged or foreign, which other files and frames can do without."""


def refuse(error: UnreadableError) -> None:
    """Raise the error; what reads files calls this, or another function that leaves the thing out."""
    raise error


def memory_fault(error: MemoryError) -> str:
    """Return what a command says that has too little memory."""
    return f"there is too little memory: {cause(error)}"


def cause(error: Exception) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def shown(value: object) -> str:
    """Return a value as a message names it: in one line, and no longer than a line."""
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else f"{text[:75]}..."


def nearest(name: object, known: Iterable[str]) -> str:
    """Return what a message says after an unknown name: the nearest known one, else all of them."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
