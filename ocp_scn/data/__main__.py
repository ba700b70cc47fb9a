"""``ocp-scn data``, also ``python -m ocp_scn.data``: its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ocp_scn.data import convert, sample, stats
from ocp_scn.options import Parser, status_of

DESCRIPTION = "Make a data set of your own calculations or a sample, or print statistics of one."
EPILOG = "example: ocp-scn data sample datasets/sample"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="ocp-scn data", description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in (("sample", sample), ("convert", convert), ("stats", stats)):
        command = commands.add_parser(
            name,
            help=module.DESCRIPTION.split(":")[0].split(" (")[0],
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    return status_of(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
