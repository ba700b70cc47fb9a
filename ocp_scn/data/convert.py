"""Turn DFT calculations into data sets for fairchem's trainers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ocp_scn.data.configuration import write_configuration
from ocp_scn.data.conversion import REFERENCES_FILE, Report
from ocp_scn.data.energies import check_precision, shifted
from ocp_scn.data.faults import find_fault
from ocp_scn.data.folder import new_folder
from ocp_scn.data.formats import Writer, add_format_argument, writer
from ocp_scn.data.frames import Frame, foreign_files, has_calculated_energies, read_frames
from ocp_scn.data.references import LinearReferences, ReferenceFit
from ocp_scn.data.source import add_source_arguments, label_keys, source_files
from ocp_scn.data.splits import NO_SPLIT, TRAIN, Rule, automatic_rules, parse_rules, split_of
from ocp_scn.data.survey import Survey
from ocp_scn.errors import InputError, UnreadableError
from ocp_scn.options import integer, number
from ocp_scn.predictions import structure_name

DESCRIPTION = """Convert calculations to data sets (one folder for each split), and write the configuration of
a training on them. Reads extended XYZ files (also compressed), ASE's trajectories and databases, OC20's pairs
of extxyz.xz and txt, and LMDB files of fairchem-core 1."""
EPILOG = """examples:
  ocp-scn data convert mine.extxyz datasets/mine
  ocp-scn data convert relaxations.extxyz.xz datasets/mine --split val=0.1
  ocp-scn data convert data/is2re/all/val_id datasets/val_id --format aselmdb --labels optional"""
_SAME_ID = "an earlier frame has the same sid and fid"
_NEEDED = {"needed": ("energy", "forces"), "energy": ("energy",), "optional": ()}
_LARGEST_DISTANCE = 5.0  # Å; beyond it every structure has atoms that overlap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``ocp-scn data convert``."""
    parser.add_argument("source", type=Path, help="file, or folder that is searched with its subfolders")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=RULE",
        help="send frames to the split NAME; RULE is 0.1 for a random tenth, sids:a,b for these systems, or "
        "every:10:5 for frames with number %% 10 == 5; may be repeated, and the first rule that fits counts; "
        "all other frames go to 'train', with --split none all frames (default: a tenth each of "
        "calculations for val and test, if there are enough)",
    )
    parser.add_argument(
        "--split-by",
        choices=["system", "frame"],
        help="whether a random split takes whole systems or single frames (default: system; frame for one or "
        "two systems without --split)",
    )
    parser.add_argument("--seed", type=integer(), default=0, help="seed of random splits (default: 0)")
    parser.add_argument(
        "--references",
        metavar="fit|none|FILE.npz",
        help="element references, which trainings subtract and predictions add: fit them to 'train', use "
        "none, or read coeff of an npz file (default: fit for calculations, none for adsorption energies and "
        "data sets)",
    )
    parser.add_argument(
        "--subtract-references",
        action="store_true",
        help="write energies without the references; predictions then do not add them",
    )
    parser.add_argument("--max-atoms", type=integer(1), help="leave out structures with more atoms")
    parser.add_argument(
        "--max-num-elements",
        type=integer(2),
        default=90,
        help="atomic numbers have to be below this setting of the model (default: 90)",
    )
    parser.add_argument(
        "--min-distance",
        type=number(above=0, up_to=_LARGEST_DISTANCE),
        default=0.5,
        help=f"frames with closer atoms are bad, Å (default: 0.5, at most {_LARGEST_DISTANCE:g})",
    )
    parser.add_argument(
        "--bad-frames",
        choices=["refuse", "skip"],
        default="refuse",
        help="stop at the first bad frame or file, or leave bad ones out and count them (default: refuse)",
    )
    parser.add_argument(
        "--labels",
        choices=list(_NEEDED),
        default="needed",
        help="labels that every frame must have: energy and forces (needed), only the energy, or none "
        "(optional), which suits test sets and IS2RE (default: needed)",
    )
    parser.add_argument(
        "--sids-by-file",
        action="store_true",
        help="put the file's path before each sid, for files that each number their systems from 0",
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="TARGET",
        help="drop a target such as stress or y_relaxed; may be repeated",
    )
    add_source_arguments(parser)
    add_format_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the target folder")


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was written where, and how to train on it."""
    report = convert(args)
    print(f"wrote {args.target}")
    for name, count in sorted(report.frames.items()):
        print(f"  {name}: {count} frames")
    if report.too_large:
        print(f"  left out: {report.too_large} frames of more than {args.max_atoms} atoms")
    if report.unreadable:
        print(f"  bad: {report.unreadable} files or frames that cannot be read")
    for fault, count in sorted(report.bad.items()):
        print(f"  bad: {count} frames, {fault}")
    for line in report.bad_frames[:10]:
        print(f"    {line}")
    if len(report.bad_frames) > 10:
        print(f"    ... all {len(report.bad_frames)} in {args.target / 'conversion.json'}")
    if report.not_taken:
        print(f"  not taken: {', '.join(sorted(report.not_taken))}")
    foreign = foreign_files(args.source)
    if foreign:
        print(f"  not read: {len(foreign)} files of other kinds, such as {foreign[0]}")
    for line in report.warnings():
        print(f"warning: {line}", file=sys.stderr)
    for target, values in report.normalizer().items():
        print(f"  normalizer of {target}: mean {values['mean']:.6g}, stdev {values['stdev']:.6g}")
    if report.references is not None:
        print(f"  references of {', '.join(report.references.by_symbol())}: {_how_to_use(args, report)}")
    if report.split:
        print(f"  {report.split}")
    print(*report.next, sep="\n")


def _how_to_use(args: argparse.Namespace, report: Report) -> str:
    if report.subtracted:
        return "subtracted from the energies, and no prediction adds them"
    key = {
        "lmdb": "--dataset.train.transforms.element_references.energy.file",
        "aselmdb": "energy_references",
    }
    return f"train with {key[args.format]}={args.target / REFERENCES_FILE}"


def convert(args: argparse.Namespace) -> Report:
    """Write the data set ``args.target``, whole or not at all.

    Raises:
        InputError: for a source, rule or reference file that cannot be used, a bad frame with
            ``--bad-frames refuse``, or a split that got no frame.
    """
    files = source_files(args)
    make = writer(args.format)
    rules = _asked_rules(args)
    with new_folder(args.target, overwrite=args.overwrite) as folder:
        rules, references, words = _plan(args, files, rules)
        if args.subtract_references and references is None:
            raise InputError("--subtract-references: there are none; pass --references fit or a file")
        report = Report(references=references, subtracted=args.subtract_references, split=words)
        with ExitStack() as stack:
            writers = {name: stack.enter_context(make(folder / name)) for name in [TRAIN, *rules]}
            for read, split in _good_frames(args, files, rules, report, references):
                shift = 0.0 if references is None else references.energy(read.atoms.numbers)
                frame = shifted(read, shift) if args.subtract_references else read
                check_precision(frame)
                _write(frame, writers[split])
                report.add(frame, split)
                if split == TRAIN:
                    report.count(read, shift)
            report.check_splits(args, rules)
            report.check_targets()
            _check_keys(args, report)
            unknown = [name for name in args.leave_out if name not in report.left_out]
            if unknown:
                raise InputError(f"--leave-out {unknown[0]}: no frame has a target of that name")
        if references is not None:
            references.save(folder / REFERENCES_FILE)
        (folder / "conversion.json").write_text(json.dumps(report.summary(), indent=1) + "\n")
        report.next = write_configuration(args, report, folder)
    return report


def _good_frames(
    args: argparse.Namespace,
    files: list[Path],
    rules: dict[str, Rule],
    report: Report,
    references: LinearReferences | None,
) -> Iterator[tuple[Frame, str]]:
    """Yield the frames to use, each with its split; count the others in ``report``."""

    def unreadable(error: UnreadableError) -> None:
        if args.bad_frames == "refuse":
            raise InputError(f"{error}; pass --bad-frames skip to leave it out") from error
        report.unreadable += 1
        report.bad_frames.append(str(error))

    frames = read_frames(
        files,
        args.source,
        keys=label_keys(args),
        sids_by_file=args.sids_by_file,
        unreadable=unreadable,
    )
    for frame in tqdm(frames, unit=" frames", desc="reading", disable=None):
        report.not_taken.update(frame.others)
        report.labels.update(_labels_of(frame))
        for name in args.leave_out:
            if frame.targets.pop(name, None) is not None:
                report.left_out.add(name)
        if args.max_atoms is not None and len(frame.atoms) > args.max_atoms:
            report.too_large += 1
            continue
        fault = find_fault(
            frame,
            max_num_elements=args.max_num_elements,
            min_distance=args.min_distance,
            needed=_NEEDED[args.labels],
        )
        split = split_of(frame.sid, frame.fid or 0, rules)
        # Labels of total energies need none outside of training: a test set may have other elements.
        needed = references if split == TRAIN or args.subtract_references else None
        if fault is None and needed is not None and not np.isfinite(needed.energy(frame.atoms.numbers)):
            fault = "an element has no reference energy"
        name = structure_name(frame.sid, frame.fid)
        if fault is None and name in report.ids:
            fault = _SAME_ID
        if fault is None:
            report.ids.add(name)
            report.systems.add(frame.sid)
            split = split_of(frame.sid, frame.fid or 0, rules)
            report.frames[split] += 1
            yield frame, split
            continue
        line = f"{frame.origin} (system {frame.sid}, frame {frame.fid}): {fault}"
        if args.bad_frames == "refuse":
            line += _hint(frame, fault)
            raise InputError(f"bad frame {line}; pass --bad-frames skip to leave such frames out")
        report.bad[fault] += 1
        report.bad_frames.append(line)


def _hint(frame: Frame, fault: str) -> str:
    """Return what else ends the fault of a frame."""
    found = ", ".join([*frame.others, *frame.targets])
    if fault in ("no energy", "no forces"):
        hint = f"; it has {found}: name one by --{fault.removeprefix('no ')}-key" if found else ""
        return f"{hint}; --labels energy does without forces" if fault == "no forces" else hint
    return "; --sids-by-file tells files apart" if fault == _SAME_ID else ""


def _asked_rules(args: argparse.Namespace) -> dict[str, Rule]:
    """Return the rules that were asked for: none of ``--split none``, and where nothing was."""
    if args.split == [NO_SPLIT]:
        return {}
    return parse_rules(args.split, by=args.split_by or "system", seed=args.seed)


def _plan(
    args: argparse.Namespace, files: list[Path], rules: dict[str, Rule]
) -> tuple[dict[str, Rule], LinearReferences | None, str]:
    """Return rules, references and how the frames are split by themselves, in words.

    Calculations that nothing was asked for are split, and get fitted references. Data sets, and OC20's pairs,
    are parts of a split already and may have adsorption energies.
    """
    calculated = has_calculated_energies(files)
    automatic = calculated and not args.split and args.labels != "optional"
    fitted = args.references == "fit" or (args.references is None and calculated)
    survey, report, words = Survey(), Report(), ""
    if automatic or fitted:
        for frame, _ in _good_frames(args, files, rules, report, None):
            survey.add(frame)
    if automatic and survey.ids:
        rules, words = automatic_rules(survey.ids, survey.elements(), by=args.split_by, seed=args.seed)
    elif automatic or fitted:
        report.check_splits(args, rules)  # before everything is read again
    return rules, _references(args, survey.fit(rules)) if fitted else _given_references(args), words


def _given_references(args: argparse.Namespace) -> LinearReferences | None:
    return None if args.references in (None, "none") else LinearReferences.load(Path(args.references))


def _references(args: argparse.Namespace, fit: ReferenceFit) -> LinearReferences | None:
    """Return fitted references, or None where there is too little to fit and they were not asked for."""
    if fit.frames > fit.elements:
        return fit.solve()
    if args.references is None:  # nothing to fit to, or every energy would be its own reference
        return None
    raise InputError(
        f"--references fit: {fit.frames} training frames with an energy for {fit.elements} elements; "
        "expected more frames than elements"
    )


def _labels_of(frame: Frame) -> set[str]:
    """Return which of the labels with a ``--NAME-key`` a frame has."""
    labels = {"energy": frame.energy, "forces": frame.forces, "stress": frame.targets.get("stress")}
    return {name for name, value in labels.items() if value is not None}


def _check_keys(args: argparse.Namespace, report: Report) -> None:
    """Refuse the name of a label that no frame has."""
    for name in ("energy", "forces", "stress"):
        key = getattr(args, f"{name}_key")
        if key != name and name not in report.labels:
            raise InputError(f"--{name}-key {key}: no frame has anything of that name")


def _write(frame: Frame, writer: Writer) -> None:
    labels = {"energy": frame.energy, "forces": frame.forces, "sid": frame.sid, "fid": frame.fid}
    known = {name: value for name, value in labels.items() if value is not None}
    writer.write(frame.atoms, **known, **frame.targets)
