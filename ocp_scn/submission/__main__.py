"""``ocp-scn submission``, also ``python -m ocp_scn.submission``: its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ocp_scn.errors import InputError
from ocp_scn.options import Parser, status_of
from ocp_scn.submission.archive import FORMATS, SPLITS, TRACKS
from ocp_scn.submission.check import check_file
from ocp_scn.submission.structures import Structures, find_data_sets, read_structures
from ocp_scn.submission.write import write_file

DESCRIPTION = "Write files for the leaderboards of OC20, and check them."
WRITE_EPILOG = """example:
  ocp-scn submission write s2ef s2ef.npz --against data/s2ef/all \\
      --id results/s2ef-id* --ood-ads results/s2ef-ood_ads* \\
      --ood-cat results/s2ef-ood_cat* --ood-both results/s2ef-ood_both*
No file is written that would fail the check."""
CHECK_EPILOG = """example:
  ocp-scn submission check s2ef.npz --against data/s2ef/all
The exit status is 0 for a file without faults, 1 for one with faults, 2 for one that cannot be read.
Only with --against is everything checked that scoring needs."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn submission",
        description=DESCRIPTION,
        epilog=CHECK_EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    write = _add_command(commands, "write", "join results of the four splits into one file", WRITE_EPILOG)
    write.add_argument("track", choices=TRACKS, help="what was predicted; IS2RE directly or by relaxation")
    write.add_argument("file", type=Path, metavar="FILE", help="the npz file to write")
    write.add_argument(
        "--format", choices=FORMATS, default="current", help="format of the file (default: %(default)s)"
    )
    for split in SPLITS:
        write.add_argument(
            f"--{split.replace('_', '-')}",
            nargs="+",
            type=Path,
            required=True,
            metavar="RESULT",
            help="results/NAME folders of this split's runs, or the npz files in them",
        )
    write.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    write.set_defaults(run=run_write)
    check = _add_command(commands, "check", "find what keeps a file from being scored", CHECK_EPILOG)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="an npz file for a leaderboard")
    check.add_argument("--format", choices=FORMATS, help="required format (default: either)")
    check.set_defaults(run=run_check)
    for command in (write, check):
        command.add_argument(
            "--against",
            nargs="+",
            metavar="DATASET",
            help="folder with the data sets of the four splits (LMDB or ASE-LMDB), or SPLIT=PATH for each",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (1 for a file with faults, 2 for bad input)."""
    args = build_parser().parse_args(argv)
    return status_of(lambda: args.run(args))


def run_write(args: argparse.Namespace) -> int:
    """Write a file and print what it has."""
    if args.file.suffix != ".npz" or not args.file.parent.is_dir():
        raise InputError(
            f"FILE {str(args.file)!r}; expected a name that ends with .npz, in a folder that exists"
        )
    if args.file.exists() and not args.overwrite:
        raise InputError(f"{str(args.file)!r} exists; name another file or pass --overwrite")
    results = {split: getattr(args, split) for split in SPLITS}
    findings = write_file(args.file, args.track, args.format, results, _structures(args.against))
    print(f"wrote {args.file}\n{findings.summary()}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print what files have and what is wrong with them."""
    structures, faults = _structures(args.against), False
    for file in args.files:
        findings = check_file(file, structures, args.format)
        print(f"{file}: {findings.summary()}")
        faults |= bool(findings.faults)
    return int(faults)


def _structures(against: Sequence[str] | None) -> dict[str, Structures] | None:
    if against is None:
        return None
    return {split: read_structures(path) for split, path in find_data_sets(against).items()}


def _add_command(
    commands: argparse._SubParsersAction, name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
    )


if __name__ == "__main__":
    sys.exit(main())
