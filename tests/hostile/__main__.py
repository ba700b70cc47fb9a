"""Try hostile structures and files, and count what becomes of them.

Each case runs in a process of its own, within limits of time and memory, and is made from its number and the
seed alone. The exit status is 0 if every case was computed or read as it should be, or refused in one line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.hostile.outcomes import GOOD, Verdict
from tests.hostile.run import (
    Result,
    describe,
    file_results,
    report,
    structure_results,
    tried,
    versions,
    write_page,
)

EPILOG = """examples:
  python -m tests.hostile --structures 100 --files 50
  python -m tests.hostile --case structure-17"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--structures", type=int, default=0, metavar="N", help="how many (default: 0)")
    parser.add_argument("--files", type=int, default=0, metavar="N", help="how many (default: 0)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first number (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (default: 0)")
    parser.add_argument("--case", metavar="NAME", help="this one alone, such as structure-17 or file-3")
    parser.add_argument(
        "--fairchem2", type=Path, metavar="PYTHON", help="an eighth of the files are read there, if it exists"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the counts into this page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a case ended as none should."""
    args = build_parser().parse_args(argv)
    if args.case is not None:
        return _show(args.case, args.seed)
    of_fairchem2 = args.files // 8 if args.fairchem2 is not None and args.fairchem2.exists() else 0
    of_files = args.files - of_fairchem2
    found: dict[str, list[Result]] = {"structures": [], "files": []}
    if args.structures:
        numbers = range(args.first, args.first + args.structures)
        found["structures"] = tried(structure_results(numbers, args.seed), args.structures, args.seed)
    with tempfile.TemporaryDirectory() as work:
        numbers = range(args.first, args.first + of_files)
        found["files"] = tried(file_results(numbers, args.seed, Path(work)), of_files, args.seed)
    used = [versions()]
    if of_fairchem2:
        more, of = _in_fairchem2(args.fairchem2, of_fairchem2, args.seed, args.first)
        found["files"] += more
        used.append(of)
    if args.json is not None:
        args.json.write_text(json.dumps([versions(), found["files"]]))
    text = report(args.seed, found, used)
    print(text)
    if args.write is not None:
        write_page(args.write, text)
    return int(any(result.verdict.outcome not in GOOD for group in found.values() for result in group))


def _in_fairchem2(python: Path, number: int, seed: int, first: int) -> tuple[list[Result], str]:
    """Return the results of files that another environment reads, and its versions."""
    with tempfile.TemporaryDirectory() as work:
        kept = Path(work) / "results.json"
        words = ["--files", str(number), "--seed", str(seed), "--first", str(first), "--json", str(kept)]
        done = subprocess.run([python, "-m", "tests.hostile", *words], check=False)
        if not kept.exists():
            raise SystemExit(f"{python} ended with status {done.returncode}")
        of, results = json.loads(kept.read_text())
    return [Result(name, kind, what, Verdict(*verdict)) for name, kind, what, verdict in results], of


def _show(case: str, seed: int) -> int:
    """Try one case, and print all that it prints."""
    kind, _, number = case.partition("-")
    if kind == "structure":
        (result,) = structure_results([int(number)], seed, quiet=False)
    else:
        work = Path(tempfile.mkdtemp())
        (result,) = file_results([int(number)], seed, work, keep=True)
        for name in ("stdout", "stderr"):
            path = work / "case" / name
            print(path.read_text(errors="replace") if path.exists() else "")
        print(f"the file is in {work / 'case' / 'in'}")
    print(describe(result))
    return int(result.verdict.outcome not in GOOD)


if __name__ == "__main__":
    sys.exit(main())
