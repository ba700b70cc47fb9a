"""A hostile case runs in a process of its own, within limits, and ends with a verdict."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ocp_scn.errors import InputError

SECONDS = 10  # of a processor, for what is under test
MEMORY = 2 << 30  # bytes beyond those of the process that has imported everything
# Where a process stops that goes on beyond these: bytes beyond MEMORY, bytes of a file, seconds of the clock.
_MEMORY_MORE, _FILE_CAP, _WALL = 1 << 30, 2 << 30, 180

OUTCOMES = {
    "correct": "computed or read correctly",
    "refused": "one line names the value or the file",
    "unseen": "accepted; the format does not show the damage, or the right result is not known",
    "silent": "a wrong result, or a file changed or half-written, without an error",
    "code": "code of a file ran",
    "traceback": "a traceback, or more than one line",
    "hang": f"more than {SECONDS} s of CPU time, or no end at all",
    "memory": f"more than {MEMORY >> 30} GiB beyond the input, in memory or in a file",
    "died": "the process died",
    "unnamed": "refused without the value or the file",
    "needless": "refused, though nothing is wrong with it",
}
GOOD = ("correct", "refused", "unseen")


class Verdict(NamedTuple):
    """What became of a case: one of `OUTCOMES`, and why."""

    outcome: str
    why: str = ""


def attempt(
    judge: Callable[[], Verdict], *, seconds: float = SECONDS, memory: int = MEMORY, quiet: bool = True
) -> Verdict:
    """Return the verdict of ``judge``, which a fork of this process calls within the limits.

    Args:
        judge: runs what is under test in `under_test`, and says what came of it.
        seconds: of a processor, for what is under test.
        memory: bytes beyond those of this process, for the same.
        quiet: nothing that it prints is shown.
    """
    _give_back()
    before = _resident()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(judge, writer, seconds, memory, quiet)
    os.close(writer)
    ended, said = _read(reader)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with suppress(PermissionError):
        os.killpg(child, signal.SIGKILL)  # processes that it left behind
    _, status, used = os.wait4(child, 0)
    if not ended or _signal(status) == signal.SIGPROF:
        return Verdict("hang", "it did not end" if not ended else f"more than {seconds} s of a processor")
    if _signal(status) == signal.SIGXFSZ:
        return Verdict("memory", f"it wrote a file of more than {_FILE_CAP >> 30} GiB")
    growth, *found = json.loads(said) if said else (_peak(used) - before,)
    if growth > memory:
        return Verdict("memory", f"{growth / 2**30:.1f} GiB")
    return Verdict(*found) if found else Verdict("died", f"status {os.waitstatus_to_exitcode(status)}")


@contextmanager
def under_test() -> Iterator[None]:
    """Count processor time and memory within the context; too much time ends the process."""
    signal.setitimer(signal.ITIMER_PROF, _limits["seconds"])
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limits["growth"] = _peak(resource.getrusage(resource.RUSAGE_SELF)) - _limits["before"]


def verdict_of(error: BaseException) -> Verdict:
    """Return the verdict on an exception that is no refusal, and print its traceback."""
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return Verdict("memory", text)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/ocp_scn/" in f.filename]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    several = isinstance(error, InputError)
    return Verdict("traceback", f"{'several lines: ' if several else ''}{text}{where}")


_limits = {"seconds": float(SECONDS), "before": 0, "growth": 0}  # of this process; memory in bytes


def _run(judge: Callable[[], Verdict], writer: int, seconds: float, memory: int, quiet: bool) -> None:
    """Run the judge in this process, a fork, and end it."""
    try:
        os.setsid()
        if quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        _limits.update(seconds=seconds, before=_resident(), growth=0)
        # Memory of one's own: the address space would be full of LMDB's maps, which take none.
        size = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (size + memory + _MEMORY_MORE,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_CAP,) * 2)
        for number in (signal.SIGPROF, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            verdict = judge()
        except BaseException as error:  # whatever it is, it is the verdict
            verdict = Verdict("traceback", f"of the judge itself: {verdict_of(error).why}")
        os.write(writer, json.dumps([_limits["growth"], *verdict]).encode())
    finally:
        os._exit(0)


def _read(reader: int) -> tuple[bool, bytes]:
    """Return whether the other end was closed in time, and what it wrote."""
    said, end = b"", time.monotonic() + _WALL
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                return True, said
            said += part
    return False, said


def _give_back() -> None:
    """Give freed memory back, with which a fork could grow unseen, where glibc kept it for this process."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    """Return the memory of this process that is in use, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak(used: resource.struct_rusage) -> int:
    return used.ru_maxrss * 1024


def _signal(status: int) -> int:
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
