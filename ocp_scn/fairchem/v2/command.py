"""fairchem 2's command line, for ``ocp-scn``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from fairchem.core import _cli
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from ocp_scn.errors import InputError, cause


def run(config: Path, settings: Sequence[str]) -> Path:
    """Run a configuration as ``fairchem -c`` does; return the run's folder.

    ``--KEY=VALUE`` is the same as ``KEY=VALUE``.

    Raises:
        InputError: for settings that are none, or that the configuration does not have.
    """
    unknown = next((word for word in settings if not re.match(r"(--|\+{1,2}|~)?[^-+~=]+=|~", word)), None)
    if unknown is not None:
        raise InputError(f"argument {unknown!r} not understood; settings are written --key.subkey=value")
    words = [word.removeprefix("--") for word in settings]
    try:
        job = _cli.get_hydra_config_from_yaml(str(config), words).job
        # That of the folder, which is otherwise taken from the clock once more.
        words.append(f"++job.timestamp_id={job.timestamp_id}")
        _cli.main(argparse.Namespace(config=str(config)), words)
    except InstantiationException:  # of what a class raised: a fault of the program, or it has said its line
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"--config {config}: {cause(error)}") from error
    return Path(job.metadata.config_path).parent
