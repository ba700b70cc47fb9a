"""What a run of either line prints, and what it keeps beside its results: run.log and versions.txt."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import distributions
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.common.utils import setup_logging
from tqdm import tqdm

from ocp_scn.fairchem.files import refused_writes, written_whole
from ocp_scn.fairchem.replaced import replaced

log = logging.getLogger(__name__)
LOG_FILE = "run.log"
_OURS, _LAUNCHER = "ocp_scn", "torch.distributed.elastic"
_TOLD = {"mlip_unit", "slurm_launch"}  # modules of fairchem 2
_FORMAT = "%(asctime)s %(pathname)s:%(lineno)d: (%(levelname)s): %(message)s"  # fairchem's


class _Terminal(logging.Handler):
    """Prints what this package says, and others' errors, in one line each; bars are drawn below."""

    def filter(self, record: logging.LogRecord) -> bool:
        # Of ranks that end, torch's launcher logs what the command says itself, and fairchem 2's unit the
        # batch at which it then raises; its tasks of jobs log as an error that they are requeued.
        told = record.name.startswith(_LAUNCHER) or record.module in _TOLD
        return record.name.split(".")[0] == _OURS or (record.levelno >= logging.ERROR and not told)

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        stream = sys.stderr if warns else sys.stdout
        text = record.getMessage()
        if warns:
            text = f"{record.levelname.lower()}: {' '.join(text.split())}"
        tqdm.write(text, file=stream)
        stream.flush()


class _File(logging.Handler):
    """Appends to a file, each record at once; where it cannot, it says so once and the run goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
        self._file, self._ended = path.open("ab", buffering=0), False

    def emit(self, record: logging.LogRecord) -> None:
        if self._ended:
            return
        try:
            self._file.write(f"{self.format(record)}\n".encode(errors="replace"))
        except OSError as error:
            self._ended = True
            log.warning(f"{self._file.name} ends here: {error.strerror}")

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def terminal(*, everything: bool, silent: bool = False) -> Iterator[None]:
    """Let the process print this package's messages alone, or ``everything`` as fairchem does.

    A ``silent`` process, as all ranks but the first may be, prints none. Where messages are printed so
    already, nothing changes.
    """
    root = logging.getLogger()
    if any(isinstance(handler, _Terminal | MemoryHandler | _File) for handler in root.handlers):
        yield
        return
    before, level = root.handlers[:], root.level
    for handler in before:
        if type(handler) is logging.StreamHandler:  # fairchem 2 adds one as it is imported
            root.removeHandler(handler)
    torchs = _take_over_torch()
    if silent:
        root.addHandler(logging.NullHandler())
    elif not everything:
        root.addHandler(_Terminal())
    setup_logging()  # sets the level; adds what prints everything where nothing prints yet
    # What is said before the run has a folder.
    root.addHandler(MemoryHandler(capacity=sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False))
    logging.captureWarnings(True)
    set_up = distutils.setup if everything else partial(_unseen, distutils.setup)
    try:
        with replaced(distutils, setup=set_up):
            yield
    finally:
        logging.captureWarnings(False)
        for handler in set(root.handlers) - set(before):
            handler.close()
        root.handlers = before
        root.setLevel(level)
        for logger, handlers in torchs.items():
            logger.handlers, logger.propagate = handlers, False


def _unseen(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function without what C++ prints meanwhile, which no logger sees: gloo a line for each rank."""
    sys.stdout.flush()
    printed = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        return function(*args, **options)
    finally:
        os.dup2(printed, 1)
        os.close(printed)
        os.close(nothing)


def _take_over_torch() -> dict[logging.Logger, list[logging.Handler]]:
    """Let torch's loggers, which print what they log themselves, pass it on; return their handlers."""
    known = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("torch")]
    found = {logger: logger.handlers for logger in known if logger.handlers and not logger.propagate}
    for logger in found:
        logger.handlers, logger.propagate = [], True
    return found


@contextmanager
def kept(folder: Path | None, rank: int = 0) -> Iterator[None]:
    """Append what this process logs, and has logged since `terminal`, to the log of its rank.

    Args:
        folder: of the run; None keeps nothing. Where a log is kept already, nothing changes.
        rank: the first rank's is ``run.log``, as is that of the process that launches ranks.

    Raises:
        InputError: where it cannot be written.
    """
    root = logging.getLogger()
    if folder is None or any(isinstance(handler, _File) for handler in root.handlers):
        yield
        return
    path = folder / (f"run-rank{rank}.log" if rank else LOG_FILE)
    with refused_writes(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = _File(path)
    for handler in root.handlers[:]:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            handler.flush()
            root.removeHandler(handler)
    root.addHandler(file)
    try:
        yield
    except BaseException as error:
        # The terminal has it from Python, or in one line from the command.
        parts = (type(error), error, error.__traceback__)
        file.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run ended", (), parts))
        raise
    finally:
        root.removeHandler(file)
        file.close()


def introduce(name: str, mode: str, folder: Path, *, cpu: bool) -> None:
    """Say where a run's log is, and write what it runs with beside it.

    Raises:
        InputError: where that cannot be written.
    """
    log.info(f"run     {name} ({mode}), log in {near(folder / LOG_FILE)}")
    with written_whole(folder / "versions.txt") as part:
        part.write_text("\n".join([*_surroundings(cpu=cpu), *_packages(), ""]))


def near(path: Path | str) -> Path:
    """Return a path as seen from the working directory where it is below, so that it can be copied."""
    found = Path(path)
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def _surroundings(*, cpu: bool) -> list[str]:
    device = "no GPU used" if cpu or not torch.cuda.is_available() else torch.cuda.get_device_name()
    return [
        f"command: {shlex.join(sys.argv)}",
        f"in: {Path.cwd()}",
        f"on: {platform.node()}, {platform.platform()}, {os.cpu_count()} processors, {device}",
        f"Python {platform.python_version()}, CUDA of torch: {torch.version.cuda}",
    ]


def _packages() -> list[str]:
    found = {f"{package.metadata['Name']}=={package.version}" for package in distributions()}
    return sorted(found, key=str.lower)
