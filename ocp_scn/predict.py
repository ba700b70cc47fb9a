"""Predict energies, forces and stresses of structures in files, and write an extended XYZ file.

Reads the files that ASE reads (extxyz, traj, db, cif, POSCAR, ...) and the data sets of both lines of
fairchem. The checkpoint may be of either line. Energies include the element references, and forces are those
of all atoms. The structures keep their other data. Labels get other names, such as label_energy, and the
errors of the predictions are printed.

With --config FILE the data set of a configuration is predicted instead: ocp-scn predict --config FILE --help.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import per_config_properties, write_xyz
from ase.stress import voigt_6_to_full_3x3_stress
from tqdm import tqdm

from ocp_scn import runs
from ocp_scn.allocator import keep_freed_memory
from ocp_scn.calculator import SCNCalculator
from ocp_scn.data.frames import Frame, find_files, read_frames
from ocp_scn.errors import InputError, cause
from ocp_scn.fairchem.files import refused_writes, written_whole
from ocp_scn.fairchem.memory import is_out_of_memory
from ocp_scn.fairchem.structures import place_fault
from ocp_scn.options import Parser, integer, status_of
from ocp_scn.predictions import batches
from ocp_scn.unpickling import TRUST_HELP, trust

EPILOG = """examples:
  ocp-scn predict checkpoint.pt structures.extxyz -o predicted.extxyz
  ocp-scn predict checkpoint.pt datasets/mine/val -o predicted.extxyz --device cuda"""
SUFFIXES = (".extxyz", ".xyz")
LABEL = "label_"  # before the name of what the input says that a property is
# Of an extended XYZ file, beside the arrays of a structure.
_COLUMNS = ["symbols", "positions"]
_OWN_COLUMNS = {"numbers", "positions", "symbols", "species", "pos", "move_mask"}


@dataclass
class Structure:
    """A structure to be predicted.

    Attributes:
        atoms: the structure with its labels under other names.
        free: (n,) atoms whose forces count in the errors.
        origin: file and position in it, for messages.
        lost: kinds of its constraints that extended XYZ files do not have.
    """

    atoms: Atoms
    free: np.ndarray
    origin: str
    lost: set[str]


@dataclass
class Report:
    """What was written, and its errors where labels are known.

    Attributes:
        structures: their number.
        sums: absolute errors of energies, eV an atom, and of the components of forces, eV/Å.
        counts: how many errors were added.
        lost: kinds of constraints that could not be written.
    """

    structures: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)

    def add(self, structure: Structure, results: Mapping[str, Any]) -> None:
        """Count a structure."""
        atoms = structure.atoms
        self.structures += 1
        self.lost |= structure.lost
        energy, forces = atoms.info.get(f"{LABEL}energy"), atoms.arrays.get(f"{LABEL}forces")
        if energy is not None:
            self._count("energy", np.array([(results["energy"] - energy) / len(atoms)]))
        if forces is not None and "forces" in results:
            self._count("forces", (results["forces"] - forces)[structure.free])

    def _count(self, name: str, errors: np.ndarray) -> None:
        errors = np.abs(errors[np.isfinite(errors)])
        self.sums[name] += errors.sum()
        self.counts[name] += errors.size

    def lines(self) -> list[str]:
        """Return what there is to say of the errors."""
        of = {
            "energy": ("eV per atom", "structures"),
            "forces": ("eV/Å", "components, of atoms that are not fixed"),
        }
        return [
            f"{name} MAE: {self.sums[name] / self.counts[name]:.6g} {unit} ({self.counts[name]} {what})"
            for name, (unit, what) in of.items()
            if self.counts[name]
        ]


def predict_file(
    calculator: SCNCalculator, source: Path, target: Path, *, max_atoms: int = 1000, overwrite: bool = False
) -> Report:
    """Write the structures of ``source`` with their predictions, all or none; return what was written.

    All structures are read and looked at before the first one is predicted.

    Args:
        calculator: of a checkpoint.
        source: a file that ASE reads, a data set of fairchem, or a folder of such files.
        target: an extended XYZ file.
        max_atoms: of a batch; a larger structure is a batch by itself.
        overwrite: replace an existing file.

    Raises:
        InputError: for a file or a structure that cannot be read, predicted or written, or a ``target`` that
            exists.
    """
    if not target.name.endswith(SUFFIXES):
        raise InputError(f"--output {str(target)!r}; expected a name that ends with {' or '.join(SUFFIXES)}")
    if target.exists() and not overwrite:
        raise InputError(f"{str(target)!r} exists; name another file or pass --overwrite")
    with refused_writes(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    report, most = Report(), calculator.network.config.max_num_elements
    total = sum(1 for _ in _bar(_checked(_structures(source), most), "reading"))
    with written_whole(target) as part, part.open("w", encoding="utf-8") as file:
        bar = _bar(_structures(source), "predicting", total)
        for batch in batches(bar, lambda structure: len(structure.atoms), max_atoms):
            for structure, results in zip(batch, _predict(calculator, batch, max_atoms), strict=True):
                report.add(structure, results)
                _write(file, structure.atoms, results)
    return report


def _structures(source: Path) -> Iterator[Structure]:
    """Yield the structures of a file or folder, with their labels under other names."""
    if not source.exists():
        raise InputError(f"{str(source)!r} does not exist")
    for frame in read_frames(find_files(source) if source.is_dir() else [source], source):
        held = np.zeros(len(frame.atoms), dtype=bool)
        for constraint in frame.atoms.constraints:  # FixAtoms, if any
            held[constraint.index] = True
        _keep_labels(frame)
        _keep_constraints(frame, held)
        yield Structure(frame.atoms, ~held, frame.origin, set(frame.lost) - {FixCartesian.__name__})


def _keep_labels(frame: Frame) -> None:
    """Give everything that the source says of a structure a place in its info and arrays.

    ASE takes what is called ``energy`` there for a result. A structure with labels from an earlier
    prediction keeps those: what it calls energy is a prediction.
    """
    atoms = frame.atoms
    known = {**atoms.arrays, **atoms.info, **({} if atoms.calc is None else atoms.calc.results)}
    labels = {name: known[name] for name in all_properties if known.get(name) is not None}
    labels |= {name: frame.targets[name] for name in ("stress",) if name in frame.targets}
    labels |= {n: v for n, v in (("energy", frame.energy), ("forces", frame.forces)) if v is not None}
    for name in all_properties:
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    atoms.calc = None
    others = {name: value for name, value in frame.targets.items() if name not in labels}
    if not any(name.startswith(LABEL) for name in known):
        others |= {LABEL + name: value for name, value in labels.items()}
    others |= {"sid": frame.sid, "fid": frame.fid}
    for name, value in others.items():
        if name in atoms.info or name in atoms.arrays or value is None:
            continue
        of_atoms = np.ndim(value) and len(value) == len(atoms)
        if of_atoms and name.removeprefix(LABEL) not in per_config_properties:
            atoms.arrays[name] = np.asarray(value)
        else:
            atoms.info[name] = value


def _keep_constraints(frame: Frame, held: np.ndarray) -> None:
    """Put constraints that extended XYZ files have, a flag for each atom or coordinate, in place of all."""
    mask = np.repeat(held[:, None], 3, axis=1)
    for constraint in frame.constraints:
        if isinstance(constraint, FixCartesian):
            mask[constraint.index] |= constraint.mask
    whole = (mask == held[:, None]).all()
    fixed = FixAtoms(mask=held) if whole else [FixCartesian(a, row) for a, row in enumerate(mask)]
    frame.atoms.set_constraint(fixed if mask.any() else None)


def _checked(structures: Iterable[Structure], max_num_elements: int) -> Iterator[Structure]:
    """Yield the structures; raise `InputError` for what can be told without the model."""
    for structure in structures:
        atoms = structure.atoms
        fault = place_fault(atoms) if len(atoms) else "no atoms"
        if fault is None and not 0 <= atoms.numbers.min() <= atoms.numbers.max() < max_num_elements:
            fault = f"atomic numbers {atoms.numbers.min()} to {atoms.numbers.max()}; the model has 0 to "
            fault += str(max_num_elements - 1)
        if fault is None:
            try:
                _write(io.StringIO(), atoms, {"energy": 0.0, "forces": np.zeros((len(atoms), 3))})
            except (KeyError, IndexError, TypeError, ValueError) as error:  # of ASE's writer
                fault = f"it cannot be written as extended XYZ: {cause(error)}"
        if fault is not None:
            raise InputError(f"{structure.origin}: {fault}")
        yield structure


def _predict(calculator: SCNCalculator, batch: Sequence[Structure], max_atoms: int) -> list[dict[str, Any]]:
    """Return the results of a batch.

    Raises:
        InputError: for a structure that the model cannot compute, or too little memory.
    """
    try:
        return calculator.predict([structure.atoms for structure in batch])
    except InputError:
        for structure in batch:  # to tell which one
            try:
                calculator.predict([structure.atoms])
            except InputError as error:
                raise InputError(f"{structure.origin}: {error}") from error
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(len(structure.atoms) for structure in batch)
        raise InputError(
            f"{batch[0].origin}: the memory is too small for a batch of {len(batch)} structures, {size} "
            f"atoms; lower --max-atoms {max_atoms} or take another --device"
        ) from error


def _write(file: TextIO, atoms: Atoms, results: Mapping[str, Any]) -> None:
    """Append a structure with its results to an extended XYZ file."""
    copy = atoms.copy()
    copy.info["energy"] = results["energy"]
    if "stress" in results:
        copy.info["stress"] = voigt_6_to_full_3x3_stress(results["stress"])
    for name, values in copy.arrays.items():
        if values.ndim > 2:
            copy.arrays[name] = values.reshape(len(copy), -1)
    if "forces" in results:
        copy.arrays["forces"] = np.asarray(results["forces"], dtype=np.float64)
    columns = _COLUMNS + ["move_mask"] * bool(copy.constraints)
    columns += [name for name in copy.arrays if name not in _OWN_COLUMNS]
    write_xyz(file, copy, columns=columns, write_results=False)


def _bar(structures: Iterable[Structure], what: str, total: int | None = None) -> Iterable[Structure]:
    """Return structures that show on a terminal how many there were, and how long the rest takes."""
    return tqdm(structures, desc=what, total=total, unit=" structures", disable=None)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn predict",
        description=__doc__,
        epilog=EPILOG,
    )
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint of fairchem 1, or inference checkpoint of 2"
    )
    parser.add_argument("structures", type=Path, help="file, or folder that is searched with its subfolders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="extended XYZ file to write")
    parser.add_argument(
        "--max-atoms",
        type=integer(1),
        default=1000,
        help="atoms in a batch (default: 1000; more may be faster on a GPU)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: the GPU if there is one)")
    parser.add_argument(
        "--dtype", choices=["float32", "float64"], default="float32", help="precision (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    words = sys.argv[1:] if argv is None else list(argv)
    if any(word.split("=")[0] == "--config" for word in words):
        return runs.main(["predict", *words])
    args = build_parser().parse_args(words)
    if args.trust:
        trust()
    keep_freed_memory()
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    calculator = SCNCalculator(args.checkpoint, device=args.device, dtype=args.dtype)
    report = predict_file(
        calculator, args.structures, args.output, max_atoms=args.max_atoms, overwrite=args.overwrite
    )
    print(f"wrote {args.output}: {report.structures} structures")
    for line in report.lines():
        print(f"  {line}")
    if report.lost:
        lost = ", ".join(sorted(report.lost))
        print(f"warning: extended XYZ has no constraints of the kind {lost}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
