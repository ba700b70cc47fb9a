"""Hostile cases by their numbers, the table of what became of them, and the page that has it."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from tests.hostile import files
from tests.hostile.outcomes import GOOD, OUTCOMES, Verdict, attempt

BLOCK = re.compile(r"(<!-- counts -->\n).*?(<!-- end of counts -->)", re.DOTALL)
PACKAGES = ("fairchem-core", "torch", "numpy", "ase", "lmdb")


class Result(NamedTuple):
    """A case that was tried: its name, its kind, what was done to it, and the verdict."""

    name: str
    kind: str
    what: str
    verdict: Verdict


def structure_results(numbers: Iterable[int], seed: int, *, quiet: bool = True) -> Iterator[Result]:
    """Try structures by their numbers."""
    from tests.hostile import networks, structures  # fairchem 2 has no torch-geometric

    torch.set_num_threads(1)  # or a fork of this process could not compute
    found = networks.networks()

    def judge(number: int) -> Verdict:
        structure = structures.make(number, seed)
        if not quiet:
            print(structure)
        network = networks.network_of(structure, found, number // len(structures.KINDS))
        return networks.judge(structure, network, np.random.default_rng([seed, 2, number]))

    for number in numbers:
        kind = structures.kind_of(number)
        yield Result(f"structure-{number}", kind, "", attempt(lambda n=number: judge(n), quiet=quiet))


def file_results(numbers: Iterable[int], seed: int, work: Path, *, keep: bool = False) -> Iterator[Result]:
    """Try files by their numbers.

    Args:
        numbers: of the cases.
        seed: of them all.
        work: a folder for good files and bad ones.
        keep: leave the last bad one in ``work/case``.
    """
    torch.set_num_threads(1)
    cases, folder = files.cases(), work / "case"
    expected: dict[str, str] = {}

    def judge(case: files.Case, checksum: str | None, random: np.random.Generator) -> Verdict:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        good = files.make(case, work / "good")
        return attempt(lambda: files.judge(case, good, checksum, folder, random))

    for number in numbers:
        case, random = cases[number % len(cases)], np.random.default_rng([seed, 3, number])
        if case.name not in expected:
            verdict = judge(case, None, random)
            if verdict.outcome not in ("correct", "refused"):
                raise AssertionError(f"a good file, {case.name}, gives {verdict}")
            expected[case.name] = verdict.why  # of what is not read at all, nothing equals it
        yield Result(f"file-{number}", case.name, case.what, judge(case, expected[case.name], random))
        if not keep:
            shutil.rmtree(folder)


def tried(results: Iterable[Result], total: int, seed: int) -> list[Result]:
    """Return all results, and print each bad one with the command that repeats it."""
    found = []
    for result in tqdm(results, total=total, unit=" cases", disable=None):
        found.append(result)
        if result.verdict.outcome not in GOOD:
            repeat = f"{sys.executable} -m tests.hostile --seed {seed} --case {result.name}"
            print(f"{' '.join(describe(result).split())[:600]}\n    {repeat}", flush=True)
    return found


def describe(result: Result) -> str:
    """Return a result as text."""
    what = f", {result.what}" if result.what else ""
    return f"{result.name} ({result.kind}{what}): {result.verdict.outcome}: {result.verdict.why}"


def table(title: str, results: Sequence[Result]) -> str:
    """Return the counts of results by kind and outcome, in Markdown."""
    counts = Counter((result.kind, result.verdict.outcome) for result in results)
    rows = [[kind] for kind in dict.fromkeys(result.kind for result in results)]
    for row in rows:
        row += [str(counts[row[0], outcome] or "") for outcome in OUTCOMES]
    total = Counter(result.verdict.outcome for result in results)
    rows.append([f"**all {len(results)}**", *(f"**{total[outcome]}**" for outcome in OUTCOMES)])
    head = [f"| {title} | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * len(OUTCOMES)]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def versions() -> str:
    """Return the versions of Python and of the packages that read files or compute."""
    found = [f"Python {sys.version.split()[0]}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def report(seed: int, tables: Mapping[str, Sequence[Result]], of: Iterable[str]) -> str:
    """Return what the page has: date, versions, and a table for each group of results."""
    today = datetime.now(timezone.utc).date().isoformat()
    parts = [f"{today}, seed {seed}; {'; '.join(of)}.\n"]
    return "\n".join([*parts, *(table(title, results) for title, results in tables.items() if results)])


def write_page(page: Path, text: str) -> None:
    """Put text into the marked block of a page."""
    content, replaced = BLOCK.subn(lambda match: f"{match[1]}{text}{match[2]}", page.read_text())
    if not replaced:
        raise ValueError(f"{page} has no block between <!-- counts --> and <!-- end of counts -->")
    page.write_text(content)
