"""What commands ask of a source: its files, what it calls the labels, and whether pickles may be read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ocp_scn.data import pickles
from ocp_scn.data.frames import find_files
from ocp_scn.data.labels import LabelKeys
from ocp_scn.errors import InputError

_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³, or a virial in eV"}


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a source is read."""
    for name, unit in _UNITS.items():
        parser.add_argument(
            f"--{name}-key",
            default=name,
            metavar="NAME",
            help=f"name of the {name} in the source, {unit} (default: {name})",
        )
    parser.add_argument(
        "--no-pickles", action="store_true", help="refuse LMDB files of fairchem-core 1, which are pickles"
    )


def label_keys(args: argparse.Namespace) -> LabelKeys:
    """Return the names of the labels."""
    return LabelKeys(args.energy_key, args.forces_key, args.stress_key)


def source_files(args: argparse.Namespace) -> list[Path]:
    """Return the files of ``args.source``; say that some are pickles.

    Raises:
        InputError: if there is none, or pickles are refused.
    """
    files = find_files(args.source)
    pickled = [path for path in files if path.name.endswith(pickles.SUFFIX)]
    if pickled and args.no_pickles:
        raise InputError(f"{str(pickled[0])!r} has pickles, and --no-pickles is set")
    if pickled:
        print(
            f"reading pickles of fairchem-core 1 from {pickled[0]}{' and others' if pickled[1:] else ''}: "
            "arrays and numbers are taken, anything else ends the command (--no-pickles reads none)",
            file=sys.stderr,
        )
    return files
