"""Turn DFT calculations into data sets for fairchem's trainers."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ocp_scn.data import pickles
from ocp_scn.data.folder import new_folder
from ocp_scn.data.formats import Writer, add_format_argument, writer
from ocp_scn.data.frames import (
    ENERGY_TARGETS,
    Frame,
    find_fault,
    find_files,
    has_calculated_energies,
    read_frames,
)
from ocp_scn.data.references import LinearReferences, ReferenceFit
from ocp_scn.data.splits import TRAIN, Rule, parse_rules, split_of
from ocp_scn.errors import InputError

DESCRIPTION = """Turn calculations (extxyz, extxyz.xz, ASE databases and trajectories, OC20's pairs of
extxyz.xz and txt, or LMDB files of fairchem-core 1) into LMDB data sets, one folder a split."""
EPILOG = """examples:
  python -m ocp_scn.data convert relaxations.extxyz.xz datasets/mine --split val=0.1
  python -m ocp_scn.data convert data/is2re/all/val_id datasets/val_id --format aselmdb --labels optional"""
REFERENCES_FILE = "references.npz"
# Trainings read energies in float32, whose numbers may not be further apart than this, eV.
_COARSEST = 1e-3


@dataclass
class Report:
    """What a conversion did."""

    references: LinearReferences | None = None
    subtracted: bool = False  # whether the energies as written lack the references

    frames: Counter[str] = field(default_factory=Counter)  # written, by split
    too_large: int = 0  # frames left out for their number of atoms
    bad: Counter[str] = field(default_factory=Counter)  # left out, by fault
    bad_frames: list[str] = field(default_factory=list)  # "origin (system, frame): fault"
    targets: dict[str, Counter[str]] = field(default_factory=dict)  # frames that have each, by split
    left_out: set[str] = field(default_factory=set)  # targets that were dropped
    energy: list[float] = field(default_factory=list)  # training energies without references, eV
    forces_sum2: float = 0.0  # sum of squared force components on free training atoms, (eV/Å)²
    forces_count: int = 0

    def check_targets(self) -> None:
        """Refuse a split in which only some frames have a target: fairchem cannot make batches of it."""
        for split, targets in self.targets.items():
            for name, count in targets.items():
                if count < self.frames[split]:
                    raise InputError(
                        f"split {split!r} has {name!r} for {count} of its {self.frames[split]} frames only; "
                        f"--leave-out {name} keeps it for none"
                    )

    def summary(self) -> dict[str, Any]:
        """Return what ``conversion.json`` keeps."""
        return {
            "frames": dict(self.frames),
            "too_large": self.too_large,
            "bad": dict(self.bad),
            "bad_frames": self.bad_frames,
            "normalizer": self.normalizer(),
            "references": None if self.references is None else self.references.by_symbol(),
            "references_subtracted": self.subtracted,
        }

    def normalizer(self) -> dict[str, dict[str, float]]:
        """Return mean and stdev of the training targets, as a configuration's ``normalizer`` has them.

        With references the mean is 0: a mean is added once a system, whatever its size.
        """
        if not self.energy:
            return {}
        energy = np.array(self.energy)
        mean = 0.0 if self.references is not None else float(energy.mean())
        return {
            "energy": {"mean": mean, "stdev": float(np.sqrt(np.square(energy - mean).mean()))},
            "forces": {"mean": 0.0, "stdev": float(np.sqrt(self.forces_sum2 / max(1, self.forces_count)))},
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``python -m ocp_scn.data convert``."""
    parser.add_argument("source", type=Path, help="file, or folder that is searched through")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=RULE",
        help="0.1: a random tenth; sids:a,b: these systems; every:10:5: frames with number %% 10 == 5; "
        "may be repeated, the first that fits counts, other frames go to 'train'",
    )
    parser.add_argument(
        "--split-by",
        choices=["system", "frame"],
        default="system",
        help="what a random split keeps together (default: system)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random splits (default: 0)")
    parser.add_argument(
        "--references",
        metavar="fit|none|FILE.npz",
        help="energies of the elements, for trainings to subtract and predictions to add: fitted to 'train', "
        "or coeff of an npz file (default: fit for calculations, none for adsorption energies and data sets)",
    )
    parser.add_argument(
        "--subtract-references",
        action="store_true",
        help="write energies without the references; nothing adds them to predictions then",
    )
    parser.add_argument("--max-atoms", type=int, help="leave out larger structures")
    parser.add_argument(
        "--max-num-elements",
        type=int,
        default=90,
        help="atomic numbers have to be below this, as in the model (default: 90)",
    )
    parser.add_argument(
        "--min-distance", type=float, default=0.5, help="closer atoms overlap, Å (default: 0.5)"
    )
    parser.add_argument(
        "--bad-frames",
        choices=["refuse", "skip"],
        default="refuse",
        help="stop at the first bad frame, or leave bad frames out and count them (default: refuse)",
    )
    parser.add_argument(
        "--labels",
        choices=["needed", "optional"],
        default="needed",
        help="whether a frame without energy or forces is bad; optional suits test sets and IS2RE (default: "
        "needed)",
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="TARGET",
        help="drop a target such as stress or y_relaxed; may be repeated",
    )
    parser.add_argument(
        "--no-pickles", action="store_true", help="refuse LMDB files of fairchem-core 1, which are pickles"
    )
    add_format_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the target folder")


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was written where."""
    report = convert(args)
    print(f"wrote {args.target}")
    for name, count in sorted(report.frames.items()):
        print(f"  {name}: {count} frames")
    if report.too_large:
        print(f"  left out: {report.too_large} frames of more than {args.max_atoms} atoms")
    for fault, count in sorted(report.bad.items()):
        print(f"  bad: {count} frames, {fault}")
    for line in report.bad_frames[:10]:
        print(f"    {line}")
    if len(report.bad_frames) > 10:
        print(f"    ... all {len(report.bad_frames)} in {args.target / 'conversion.json'}")
    for target, values in report.normalizer().items():
        print(f"  normalizer of {target}: mean {values['mean']:.6g}, stdev {values['stdev']:.6g}")
    if report.references is not None:
        print(f"  references of {', '.join(report.references.by_symbol())}: {_how_to_use(args, report)}")


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
    files = find_files(args.source)
    _mind_pickles(files, refuse=args.no_pickles)
    rules = parse_rules(args.split, by=args.split_by, seed=args.seed)
    make = writer(args.format)
    with new_folder(args.target, overwrite=args.overwrite) as folder:
        references = _references(args, files, rules)
        if args.subtract_references and references is None:
            raise InputError("--subtract-references: there are none; pass --references fit or a file")
        report = Report(references=references, subtracted=args.subtract_references)
        with ExitStack() as stack:
            writers = {name: stack.enter_context(make(folder / name)) for name in [TRAIN, *rules]}
            for read, split in _good_frames(args, files, rules, report, references):
                shift = 0.0 if references is None else references.energy(read.atoms.numbers)
                frame = _shifted(read, shift) if args.subtract_references else read
                _mind_precision(frame)
                _write(frame, writers[split])
                report.frames[split] += 1
                report.targets.setdefault(split, Counter()).update(frame.targets.keys())
                if split == TRAIN:
                    _count(read, shift, report)
            empty = [name for name in [TRAIN, *rules] if not report.frames[name]]
            if empty:
                raise InputError(f"split {empty[0]!r} got no frame of {str(args.source)!r}")
            report.check_targets()
            unknown = [name for name in args.leave_out if name not in report.left_out]
            if unknown:
                raise InputError(f"--leave-out {unknown[0]}: no frame has a target of that name")
        if references is not None:
            references.save(folder / REFERENCES_FILE)
        (folder / "conversion.json").write_text(json.dumps(report.summary(), indent=1) + "\n")
    return report


def _good_frames(
    args: argparse.Namespace,
    files: list[Path],
    rules: dict[str, Rule],
    report: Report,
    references: LinearReferences | None,
) -> Iterator[tuple[Frame, str]]:
    """Yield the frames to use, each with its split; count the others in ``report``."""
    for frame in tqdm(read_frames(files), unit=" frames", desc="reading"):
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
            labels=args.labels == "needed",
        )
        split = split_of(frame.sid, frame.fid or 0, rules)
        # Labels of total energies need none outside of training: a test set may have other elements.
        needed = references if split == TRAIN or args.subtract_references else None
        if fault is None and needed is not None and not np.isfinite(needed.energy(frame.atoms.numbers)):
            fault = "an element has no reference energy"
        if fault is None:
            yield frame, split
            continue
        line = f"{frame.origin} (system {frame.sid}, frame {frame.fid}): {fault}"
        if args.bad_frames == "refuse":
            raise InputError(f"bad frame {line}; pass --bad-frames skip to leave such frames out")
        report.bad[fault] += 1
        report.bad_frames.append(line)


def _references(
    args: argparse.Namespace, files: list[Path], rules: dict[str, Rule]
) -> LinearReferences | None:
    """Return the references that were asked for; fitted ones for calculations where nothing was."""
    asked = args.references
    if asked == "none" or (asked is None and not has_calculated_energies(files)):
        return None
    if asked not in (None, "fit"):
        return LinearReferences.load(Path(asked))
    fit = ReferenceFit()
    for frame, split in _good_frames(args, files, rules, Report(), None):
        energy = frame.targets.get("y_relaxed") if frame.energy is None else frame.energy
        if split == TRAIN and energy is not None:
            fit.add(frame.atoms.numbers, energy)
    if fit.frames > fit.elements:
        return fit.solve()
    if asked is None:  # nothing to fit to, or every energy would be its own reference
        return None
    raise InputError(
        f"--references fit: {fit.frames} training frames with an energy for {fit.elements} elements; "
        "expected more frames than elements"
    )


def _mind_pickles(files: list[Path], *, refuse: bool) -> None:
    """Say that pickles are read, or refuse to."""
    pickled = [path for path in files if path.name.endswith(pickles.SUFFIX)]
    if pickled and refuse:
        raise InputError(f"{str(pickled[0])!r} has pickles, and --no-pickles is set")
    if pickled:
        print(
            f"reading pickles of fairchem-core 1 from {pickled[0]}{' and others' if pickled[1:] else ''}: "
            "arrays and numbers are taken, anything else ends the conversion (--no-pickles reads none)",
            file=sys.stderr,
        )


def _shifted(frame: Frame, shift: float) -> Frame:
    """Return the frame with all its energies lowered by ``shift``, eV."""
    energies = {name: frame.targets[name] - shift for name in ENERGY_TARGETS if name in frame.targets}
    energy = None if frame.energy is None else frame.energy - shift
    return replace(frame, energy=energy, targets={**frame.targets, **energies})


def _mind_precision(frame: Frame) -> None:
    """Refuse energies that float32, in which trainings read them, does not hold."""
    for name, energy in {"energy": frame.energy, **frame.targets}.items():
        if energy is None or name not in ("energy", *ENERGY_TARGETS):
            continue
        spacing = float(np.spacing(np.abs(np.float32(energy))))
        if spacing > _COARSEST:
            raise InputError(
                f"{frame.origin} has {name}={energy:.10g} eV, which trainings read in float32, in steps of "
                f"{spacing:.2g} eV; --references fit --subtract-references writes what is left without "
                "references"
            )


def _write(frame: Frame, writer: Writer) -> None:
    labels = {"energy": frame.energy, "forces": frame.forces, "sid": frame.sid, "fid": frame.fid}
    known = {name: value for name, value in labels.items() if value is not None}
    writer.write(frame.atoms, **known, **frame.targets)


def _count(frame: Frame, reference: float, report: Report) -> None:
    """Add a training frame's labels to what the normalizer is made of; its reference energy in eV."""
    if frame.energy is None or frame.forces is None:
        return
    report.energy.append(frame.energy - reference)
    free = np.ones(len(frame.atoms), dtype=bool)
    for constraint in frame.atoms.constraints:
        free[constraint.index] = False
    report.forces_sum2 += float(np.square(frame.forces[free]).sum())
    report.forces_count += 3 * int(free.sum())
