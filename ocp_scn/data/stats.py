"""Print numbers of a data set, and draw them: sizes, elements, energies, forces, neighbours."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from tqdm import tqdm

from ocp_scn.data.count import count_frames
from ocp_scn.data.faults import find_fault
from ocp_scn.data.frames import read_frames
from ocp_scn.data.recipe import SMALL
from ocp_scn.data.references import NUM_ELEMENTS
from ocp_scn.data.source import add_source_arguments, label_keys, source_files
from ocp_scn.data.statistics import Statistics
from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.fairchem.files import refused_writes
from ocp_scn.fairchem.images import image_fault
from ocp_scn.fairchem.structures import system_of
from ocp_scn.options import integer, number

DESCRIPTION = """Print statistics of a data set: of calculations in any format that convert reads, or of a
data set that convert wrote."""
EPILOG = """examples:
  ocp-scn data stats mine.extxyz
  ocp-scn data stats datasets/mine/train --pictures pictures --cutoff 6 --max-num-neighbors 30"""
_MIN_DISTANCE = 0.5  # Å; closer atoms overlap, as in convert
_FURTHEST = 30.0  # Å
_SHOWN = 10  # bad frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``ocp-scn data stats``."""
    cutoff, cap = SMALL.model["cutoff"], SMALL.model["max_num_neighbors"]
    parser.add_argument(
        "source", type=Path, metavar="DATA", help="file, or folder that is searched with its subfolders"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="folder for histograms (PNG); it may exist"
    )
    parser.add_argument(
        "--cutoff",
        type=number(above=0, up_to=_FURTHEST),
        default=cutoff,
        help=f"largest distance of neighbours, Å (default: {cutoff:g}, as convert writes for few data)",
    )
    parser.add_argument(
        "--max-num-neighbors",
        type=integer(1),
        default=cap,
        help=f"count the atoms with more neighbours than this (default: {cap})",
    )
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Read the data once, print the table, and draw the pictures."""
    draw = _painter() if args.pictures else None
    files, unread = source_files(args), list[str]()
    statistics, bad = Statistics(args.cutoff), Counter[str]()
    frames = read_frames(
        files, args.source, keys=label_keys(args), unreadable=lambda error: _note(unread, error)
    )
    total = count_frames(files) if sys.stderr.isatty() else None
    for frame in tqdm(frames, total=total, unit=" frames", desc="reading", disable=None):
        fault = find_fault(frame, max_num_elements=NUM_ELEMENTS, min_distance=_MIN_DISTANCE, needed=())
        if fault is None:
            images = image_fault(system_of(frame.atoms), args.cutoff)
            fault = images and images[1]
        if fault is None:
            statistics.add(frame)
        else:
            bad[fault] += 1
            unread.append(f"{frame.origin} (system {frame.sid}, frame {frame.fid}): {fault}")
    if not statistics.survey.ids:
        raise InputError(f"{str(args.source)!r} has no frame that can be counted: {unread[0]}")
    print(*_lines(statistics, args), *_bad_lines(bad, unread), sep="\n")
    if draw is not None:
        with refused_writes(args.pictures):
            args.pictures.mkdir(parents=True, exist_ok=True)
        names = draw(args.pictures, statistics, args.max_num_neighbors)
        print(f"wrote {', '.join(str(args.pictures / name) for name in names)}")


def _note(unread: list[str], error: UnreadableError) -> None:
    unread.append(str(error))


def _painter() -> Callable[[Path, Statistics, int], list[str]]:
    try:
        draw: Callable[[Path, Statistics, int], list[str]] = import_module("ocp_scn.data.pictures").draw
    except ImportError as error:
        raise InputError(f"--pictures needs matplotlib: {error}") from error
    return draw


def _lines(found: Statistics, args: argparse.Namespace) -> list[str]:
    ids = found.survey.ids
    systems = len({sid for sid, _ in ids})
    labels = ", ".join(f"{name} {count}" for name, count in sorted(found.labels.items())) or "none"
    natoms = sum(found.elements.values())
    lines = [
        f"{args.source}: {len(ids)} frames, {systems} systems, {natoms} atoms",
        "",
        *_table(found),
        "",
        *_elements(found),
        "",
        f"labels (frames): {labels}",
        f"atoms: {natoms - found.fixed} free, {found.fixed} fixed",
        f"more than {args.max_num_neighbors} neighbours (--max-num-neighbors): "
        f"{100 * found.neighbors.above(args.max_num_neighbors):.3g} % of the atoms",
    ]
    if found.forces.count:
        lines.append(f"largest force: {found.forces.largest:.4g} eV/Å, {found.forces.where}")
    twice = [place for place, count in Counter(ids).items() if count > 1]
    if twice:
        lines.append(f"ids that come twice: {len(twice)}, such as system {twice[0][0]}, frame {twice[0][1]}")
    return lines


def _table(found: Statistics) -> list[str]:
    rows: dict[str, tuple[float, ...]] = {"atoms of a frame": found.atoms.summary()}
    rows |= {name: _summary(values) for name, values in found.energies().items()}
    if found.forces.count:
        rows["force on a free atom [eV/Å]"] = found.forces.summary()
    rows[f"neighbours within {found.cutoff:g} Å"] = found.neighbors.summary()
    width = max(map(len, rows))
    table: dict[str, tuple[str, ...]] = {" ": ("min", "median", "mean", "max")}
    table |= {name: tuple(f"{round(value, 6):.5g}" for value in row) for name, row in rows.items()}
    return [f"{name:<{width}}" + "".join(f"{text:>12}" for text in row) for name, row in table.items()]


def _summary(values: np.ndarray) -> tuple[float, ...]:
    return values.min(), np.median(values), values.mean(), values.max()


def _elements(found: Statistics) -> list[str]:
    return [
        f"{chemical_symbols[element]:<3}{found.elements[element]:>12} atoms{frames:>12} frames"
        for element, frames in sorted(found.frames_with.items())
    ]


def _bad_lines(bad: Counter[str], unread: list[str]) -> list[str]:
    """Return what was left out, by fault, and the first of it by name."""
    if not unread:
        return []
    unreadable = len(unread) - bad.total()
    lines = [f"bad: {unreadable} files or frames that cannot be read"] if unreadable else []
    lines += [f"bad: {count} frames, {fault}" for fault, count in sorted(bad.items())]
    rest = [f"  ... {len(unread) - _SHOWN} more"] if len(unread) > _SHOWN else []
    return [*lines, *(f"  {line}" for line in unread[:_SHOWN]), *rest]
