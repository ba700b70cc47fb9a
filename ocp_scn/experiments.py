"""The configurations that come with the package: ``ocp-scn configs``."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ocp_scn.errors import InputError
from ocp_scn.options import Parser, status_of

EPILOG = """examples:
  ocp-scn configs list
  ocp-scn configs copy s2ef/2M/scn-t1-b1
  ocp-scn configs copy fairchem2/s2ef/example experiments"""
_PACKAGE = Path(__file__).parent
_PARTS = ("base", "direct", "conservative", "published", "checkpoint")  # what experiments are made of


def folder() -> Path:
    """Return the folder of configurations: in an installed package, or beside the package in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def experiments() -> list[str]:
    """Return the names of the experiments, such as ``s2ef/2M/scn-t1-b1``."""
    return [name for name, path in _files().items() if path.stem not in _PARTS]


def _files() -> dict[str, Path]:
    paths = sorted(folder().rglob("*.y*ml"))
    return {path.relative_to(folder()).with_suffix("").as_posix(): path for path in paths}


def find(config: Path) -> Path:
    """Return the path of a configuration; the package's are found from any folder, as ``configs/…``."""
    inside = folder().parent / config
    missing = config.parts[:1] == ("configs",) and not config.exists()
    return inside if missing and inside.is_file() else config


def copy(name: str, target: Path) -> list[Path]:
    """Copy an experiment and what it includes to ``target/configs/``; return the copies, it first.

    Files that are there already and are the same stay.

    Raises:
        InputError: for a name that there is not, or a file of other content in the way.
    """
    known, wanted = _files(), name.removeprefix("configs/").removesuffix(".yml").removesuffix(".yaml")
    if wanted not in known:
        nearest = difflib.get_close_matches(wanted, known, n=1, cutoff=0)[0]
        raise InputError(f"no experiment {name!r}; the nearest is {nearest!r} (see ocp-scn configs list)")
    sources = _with_included(known[wanted])
    copies = {target / "configs" / source.relative_to(folder()): source for source in sources}
    for path, source in copies.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != source.read_bytes()):
            raise InputError(f"{str(path)!r} exists and is another file; name another FOLDER")
    for path, source in copies.items():
        part = path.with_name(f".{path.name}.part")  # written_whole needs lmdb, which may not be there
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part)
            part.replace(path)
        except OSError as error:
            raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return list(copies)


def _with_included(path: Path) -> list[Path]:
    """Return a file and all that it includes, by ``includes`` of fairchem 1 or ``defaults`` of 2."""
    found, waiting = [], [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            waiting += [folder().parent / name for name in content.get("includes", ())]
            waiting += [each for entry in content.get("defaults", ()) for each in _of_default(file, entry)]
    return found


def _of_default(file: Path, entry: Any) -> list[Path]:
    if entry == "_self_":
        return []
    if isinstance(entry, str):
        return [file.with_name(f"{entry}.yaml")]
    # Of a group any member may be chosen on the command line.
    groups = [key.split()[-1] for key in entry]
    return [path for group in groups for path in sorted((file.parent / group).glob("*.yaml"))]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn configs",
        description="List the experiments of the package, and copy one to run or change it.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands.add_parser(
        "list", help="print the names of all experiments", epilog="example:\n  ocp-scn configs list"
    )
    command = commands.add_parser(
        "copy",
        help="copy an experiment and the files that it includes",
        description="Copy an experiment and the files that it includes to FOLDER/configs.",
        epilog=EPILOG,
    )
    command.add_argument("name", metavar="NAME", help="name in the list")
    command.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help="where to copy it (default: .)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    if args.command == "list":
        print(*experiments(), sep="\n")
        return
    for path in copy(args.name, args.folder):
        print(f"wrote {path}")
