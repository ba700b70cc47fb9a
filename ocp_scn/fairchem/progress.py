"""What a run of either line says of its course: where it computes, how far it is, its metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import torch
from fairchem.core.common import distutils
from tqdm import tqdm

log = logging.getLogger(__name__)
_EVERY = 600.0  # seconds between lines where there is no terminal for a bar


class Progress:
    """How far a loop is: a bar on a terminal, elsewhere a line every ten minutes.

    Args:
        what: is done.
        unit: of the counts.
        total: number of them.
        done: before this process began.
        hidden: say nothing, as ranks do but the first.
    """

    def __init__(self, what: str, unit: str, total: int, done: int = 0, *, hidden: bool) -> None:
        self._what, self._unit, self._total, self._first, self._done = what, unit, total, done, done
        self._start = self._said = time.monotonic()
        # None is for terminals only.
        self._bar = tqdm(
            desc=what, unit=unit, total=total, initial=done, leave=False, disable=True if hidden else None
        )
        self._lines = self._bar.disable and not hidden

    def advance(self, note: str = "", count: int = 1) -> None:
        """Count what was done since, one or more."""
        self._done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._lines and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            log.info(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {self.times()}")

    def times(self) -> str:
        """Return how long it took so far, and how much longer it takes at that speed."""
        gone = time.monotonic() - self._start
        left = gone * (self._total - self._done) / max(self._done - self._first, 1)
        return f"{tqdm.format_interval(gone)} gone, {tqdm.format_interval(left)} left"

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def devices(device: torch.device) -> str:
    """Return what a run computes on, and how many ranks do."""
    if device.type == "cuda":
        found = torch.cuda.get_device_name(device)
    else:
        found = f"the CPU (threads: {torch.get_num_threads()})"
    ranks = distutils.get_world_size()
    return found if ranks == 1 else f"{found}, {ranks} ranks"


def listed(metrics: Mapping[str, float]) -> str:
    """Return metrics in one line."""
    return ", ".join(f"{name}: {value:.4f}" for name, value in metrics.items())
