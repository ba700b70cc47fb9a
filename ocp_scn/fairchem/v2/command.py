"""fairchem 2's command line, for ``ocp-scn``."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fairchem.core import _cli
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.ranks import STATUSES_OF_SIGNALS, killed

# Of ranks that end, these log what the command says itself, or raises with the rank's traceback.
_LAUNCHERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)


def run(config: Path, settings: Sequence[str]) -> tuple[int, Path]:
    """Run a configuration as ``fairchem -c`` does; ``--KEY=VALUE`` is the same as ``KEY=VALUE``.

    Returns:
        The exit status, of several ranks that of the one that has said why it ended; and the run's folder.

    Raises:
        InputError: for settings that are none, or that the configuration does not have, or a rank that
            was killed.
    """
    unknown = next((word for word in settings if not re.match(r"(--|\+{1,2}|~)?[^-+~=]+=|~", word)), None)
    if unknown is not None:
        raise InputError(f"argument {unknown!r} not understood; settings are written --key.subkey=value")
    words = [word.removeprefix("--") for word in settings]
    try:
        job = _cli.get_hydra_config_from_yaml(str(config), words).job
        # That of the folder, which is otherwise taken from the clock once more.
        words.append(f"++job.timestamp_id={job.timestamp_id}")
        folder = Path(job.metadata.config_path).parent
        with _launchers_silent():
            _cli.main(argparse.Namespace(config=str(config)), words)
    except SignalException as error:
        return 128 + error.sigval, folder
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        reason = killed(rank, failure.exitcode)
        if reason is not None:
            raise InputError(reason) from error
        if failure.exitcode not in (2, *STATUSES_OF_SIGNALS):
            raise
        return failure.exitcode, folder
    except InstantiationException:  # of what a class raised: a fault of the program, or it has said its line
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"--config {config}: {cause(error)}") from error
    return 0, folder


@contextmanager
def _launchers_silent() -> Iterator[None]:
    """Let torch's launchers of ranks log nothing."""
    loggers = [logging.getLogger(name) for name in _LAUNCHERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
