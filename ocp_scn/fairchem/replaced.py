"""Names of fairchem's modules that mean this package's things for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def replaced(module: ModuleType, **ours: Any) -> Iterator[None]:
    """Let a module find ``ours`` under these names within the context: fairchem has no other way in."""
    theirs = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(theirs)
