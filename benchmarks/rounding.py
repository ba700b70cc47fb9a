"""Measure the errors of predictions that are rounded to float16: ``python -m benchmarks.rounding``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.store import table
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.lmdb import read_data_set
from ocp_scn.predictions import structure_name

EPILOG = """example, after make demo-submission:
  python -m benchmarks.rounding runs/demo-submission/results/s2ef-*/*.npz --data datasets/sample/s2ef/test*
The table compares this rounding, of energies and of forces on free atoms, with the predictions' errors."""
COLUMNS = ["", "rounding, mean", "rounding, largest", "mean absolute error", "in float16"]
THRESHOLD = 0.02  # eV, of EwT and EFwT

Labels = dict[str, tuple[float, np.ndarray]]  # energy in eV and forces (F, 3) of free atoms in eV/Å, by id


def read_predictions(files: Iterable[Path]) -> Labels:
    """Read files of ``--mode predict`` that are in float32.

    Raises:
        InputError: for a file in another precision, or without forces.
    """
    found: Labels = {}
    for path in files:
        with np.load(path) as file:
            if "forces" not in file or file["forces"].dtype != np.float32:
                raise InputError(f"{path} has no forces in float32")
            forces = np.split(file["forces"], file["chunk_idx"])
            found |= dict(
                zip(file["ids"].tolist(), zip(file["energy"].ravel(), forces, strict=True), strict=True)
            )
    return found


def read_labels(folders: Iterable[Path]) -> Labels:
    """Read the targets of data sets."""
    samples = (sample for folder in folders for sample in read_data_set(str(folder)))
    return {structure_name(s.sid, s.fid): (float(s.energy), s.forces[s.fixed == 0].numpy()) for s in samples}


def results_table(predictions: Labels, labels: Labels) -> str:
    """Return the table of what rounding costs, and how many energies are right before and after.

    Raises:
        InputError: if a prediction has no target.
    """
    unknown = sorted(set(predictions) - set(labels))
    if unknown:
        raise InputError(f"structure {unknown[0]!r} is in none of the data sets")
    rows: list[Sequence[str]] = []
    for k, (name, unit) in enumerate((("energy", "eV"), ("forces", "eV/Å"))):
        pairs = [(np.atleast_1d(of[k]), np.atleast_1d(labels[key][k])) for key, of in predictions.items()]
        found, expected = (np.concatenate([pair[i] for pair in pairs]).astype(np.float64) for i in range(2))
        rounded = np.float16(found).astype(np.float64)
        off = np.abs(rounded - found)
        errors = [np.abs(value - expected) for value in (found, rounded)]
        numbers = [*(f"{x:.3g}" for x in (off.mean(), off.max())), *(f"{e.mean():.6f}" for e in errors)]
        rows.append([f"{name} [{unit}]", *numbers])
        if name == "energy":
            right = [int((of < THRESHOLD).sum()) for of in errors]
    words = (
        f"{len(predictions)} structures; {right[0]} energies within {THRESHOLD} eV, in float16 {right[1]}\n"
    )
    return table(COLUMNS, rows) + "\n" + words


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rounding",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "predictions", nargs="+", type=Path, help="files of predictions in float32, from --mode predict"
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="data sets of these predictions, with labels"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = build_parser().parse_args(argv)
    print(results_table(read_predictions(args.predictions), read_labels(args.data)), end="")


if __name__ == "__main__":
    main()
