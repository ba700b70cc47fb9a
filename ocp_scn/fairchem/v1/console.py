"""What a run prints, and what it keeps beside its results: run.log, config.yml and versions.txt."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
import yaml
from fairchem.core.common.utils import setup_logging
from tqdm import tqdm

from ocp_scn.fairchem.files import written_whole

log = logging.getLogger(__name__)
LOG_FILE = "run.log"
_OURS, _LAUNCHER = "ocp_scn", "torch.distributed.elastic"
_FORMAT = "%(asctime)s %(pathname)s:%(lineno)d: (%(levelname)s): %(message)s"  # fairchem's


class _Terminal(logging.Handler):
    """Prints what this package says, and others' errors, in one line each; bars are drawn below."""

    def filter(self, record: logging.LogRecord) -> bool:
        # Of ranks that end, torch's launcher logs what the command says itself.
        name = record.name.split(".")[0]
        foreign = record.levelno >= logging.ERROR and not record.name.startswith(_LAUNCHER)
        return name == _OURS or foreign

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
def terminal(*, everything: bool) -> Iterator[None]:
    """Let the process print this package's messages alone, or ``everything`` as fairchem does.

    Where messages are printed already, nothing changes.
    """
    root = logging.getLogger()
    if any(isinstance(handler, _Terminal | MemoryHandler) for handler in root.handlers):
        yield
        return
    before, level = root.handlers[:], root.level
    torchs = _take_over_torch()
    if not everything:
        root.addHandler(_Terminal())
    setup_logging()  # sets the level; adds what prints everything where nothing prints yet
    # What is said before the run has a folder.
    root.addHandler(MemoryHandler(capacity=sys.maxsize, flushLevel=sys.maxsize, flushOnClose=False))
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        for logger, handlers in torchs.items():
            logger.handlers, logger.propagate = handlers, False


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
        folder: of `outcome_folder`; None keeps nothing. Where a log is kept already, nothing changes.
        rank: the first rank's is ``run.log``, as is that of the process that launches ranks.
    """
    root = logging.getLogger()
    if folder is None or any(isinstance(handler, _File) for handler in root.handlers):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = _File(folder / (f"run-rank{rank}.log" if rank else LOG_FILE))
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


def introduce(config: Mapping[str, Any], folder: Path) -> None:
    """Say where a run's log is; write its configuration, which another run can take, and what it runs with.

    Raises:
        InputError: where they cannot be written.
    """
    log.info(f"run     {config['timestamp_id']} ({config['mode']}), log in {folder / LOG_FILE}")
    with written_whole(folder / "config.yml") as part:
        part.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    with written_whole(folder / "versions.txt") as part:
        part.write_text("\n".join([*_surroundings(cpu=config["cpu"]), *_packages(), ""]))


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
