"""The exceptions for input that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad settings, data or files; the message names the received value and what is expected.

    The commands print it as one line and end with status 2.
    """


class UnreadableError(InputError):
    """A file or a frame that is damaged or of another kind; other files and frames can still be read."""


def refuse(error: UnreadableError) -> None:
    """Raise the error; readers of files call this, or another function that leaves the file or frame out."""
    raise error


def memory_fault(error: MemoryError) -> str:
    """Return the message of a command that has too little memory."""
    return f"there is too little memory: {cause(error)}"


def cause(error: Exception) -> str:
    """Return an error's message in one line, or its name if it has no message."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def shown(value: object) -> str:
    """Return a value for a message, shortened to one line."""
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else f"{text[:75]}..."


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, else all known names."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
