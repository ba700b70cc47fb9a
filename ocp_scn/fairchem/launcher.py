"""fairchem's command line, launched so that this package is known in every process of a run."""

from __future__ import annotations

import itertools
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairchem.core import _cli
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config
from submitit.helpers import DelayedSubmission
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record

from ocp_scn.errors import InputError
from ocp_scn.fairchem.checks import check_run, without_unneeded_data


class Runner(_cli.Runner):
    """fairchem's runner under a name of this package.

    submitit pickles it and the job's process unpickles it: importing this module there is what
    registers the model, so neither ``main.py`` nor a search path has to reach the job.
    """

    def __call__(self, config: dict[str, Any]) -> None:
        """Run one process of a configuration."""
        super().__call__(without_unneeded_data(config))

    def checkpoint(self, *args: Any, **kwargs: Any) -> DelayedSubmission:
        """Save the run and resubmit it with this runner instead of fairchem's."""
        delayed = super().checkpoint(*args, **kwargs)
        return DelayedSubmission(Runner(), *delayed.args, **delayed.kwargs)


@record
def run(config: dict[str, Any]) -> None:
    """Run one process of a training, validation, prediction or relaxation."""
    Runner()(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run fairchem's command line; return the exit status (2 for bad input)."""
    # fairchem's command line looks these two up by name when it submits, spawns or runs.
    _cli.Runner, _cli.runner_wrapper = Runner, run
    args, overrides = flags.get_parser().parse_known_args(argv)
    if args.timestamp_id is None and not args.submit:
        args.timestamp_id = _new_run_name(args)
    try:
        check_run(load_config(args, overrides))
        _cli.main(args, overrides)
    except InputError as error:
        return _refuse(str(error))
    except ChildFailedError as error:
        cause = _cause_in_rank(error)
        if cause is None:
            raise
        return _refuse(cause)
    return 0


def _new_run_name(args: Any) -> str:
    """Return a name for the run's folders: the time and ``--identifier``.

    fairchem's own name counts in steps of two minutes, and a training that finds the folder of
    another one resumes from its checkpoint.
    """
    name = "-".join([time.strftime("%Y-%m-%d-%H-%M-%S"), *filter(None, [args.identifier])])
    taken = {path.name for path in Path(args.run_dir).glob("checkpoints/*")}
    return next(
        n for n in itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2))) if n not in taken
    )


def load_config(args: Any, overrides: list[str]) -> dict[str, Any]:
    """Return the configuration of a command line as fairchem builds it, without its warnings.

    Raises:
        InputError: for a file that cannot be read or an argument that is none.
    """
    unknown = [word for word in overrides if not word.startswith("--") or "=" not in word]
    if unknown:
        raise InputError(f"argument {unknown[0]!r} not understood; overrides are written --key.subkey=value")
    logging.disable(logging.WARNING)  # fairchem builds the configuration again, and warns then
    try:
        return build_config(args, overrides)
    except (OSError, ValueError) as error:
        raise InputError(f"--config-yml {args.config_yml}: {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def _cause_in_rank(error: ChildFailedError) -> str | None:
    """Return the message of an InputError that ended a rank, if that is what happened."""
    _, failure = error.get_first_failure()
    message: Any = failure.message
    text = message["message"] if isinstance(message, dict) else message
    # A line of its own: where a rank's traceback is quoted, it ends with the exception.
    found = re.search(rf"\b{InputError.__name__}: (.+)", text)
    return found and found[1]


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
