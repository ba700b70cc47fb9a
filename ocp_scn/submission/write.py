"""Write what the leaderboards read from predictions and relaxations of the four splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ocp_scn.arrays import row_counts, some
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import written_whole
from ocp_scn.npz import write_npz
from ocp_scn.submission.archive import SPLITS
from ocp_scn.submission.check import Findings, check_file
from ocp_scn.submission.results import Results, read_results
from ocp_scn.submission.structures import Structures, describe_missing


def write_file(
    path: Path,
    track: str,
    file_format: str,
    results: Mapping[str, Sequence[Path]],
    data_sets: Mapping[str, Structures] | None = None,
) -> Findings:
    """Write a file that `check_file` finds nothing wrong with, or none; return what it has.

    Args:
        path: the npz file.
        track: ``s2ef``, ``is2re`` or ``is2rs``.
        file_format: ``evalai`` or ``current``.
        results: of each split, the result files or folders of its jobs.
        data_sets: the structures of each split; the current format of S2EF cannot do without.

    Raises:
        InputError: for results that are missing, cannot be joined or would not be scored, or where
            the file cannot be written.
    """
    if file_format == "current" and track == "is2rs":
        raise InputError("the current leaderboard has no IS2RS; pass --format evalai")
    if file_format == "current" and track == "s2ef" and data_sets is None:
        raise InputError("the current format of S2EF has forces of fixed atoms; pass --against DATASET")
    with written_whole(path) as part:
        write_npz(part, _arrays(track, file_format, results, data_sets))
        findings = check_file(part, data_sets, file_format)
        if findings.faults:
            raise InputError(f"{path} is not written; {'; '.join(findings.faults)}")
    return findings


def _arrays(
    track: str,
    file_format: str,
    results: Mapping[str, Sequence[Path]],
    data_sets: Mapping[str, Structures] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of the file, split after split."""
    for split in SPLITS:
        found = read_results(results[split], track)
        structures = None if data_sets is None else data_sets[split]
        if structures is not None:
            _refuse_missing(split, found, structures, len(results[split]))
        if file_format == "current":
            found = _current(split, found, structures)
        for name, values in found.items():
            yield f"{split}_{name}", values


def _refuse_missing(split: str, found: Results, structures: Structures, parts: int) -> None:
    missing = describe_missing(found["ids"], structures, parts)
    if missing:
        raise InputError(f"{split}: {missing}")


def _current(split: str, found: Results, structures: Structures | None) -> Results:
    """Return results as the current leaderboard reads them: forces of all atoms, one number an energy."""
    converted = {"ids": found["ids"], "energy": found["energy"].reshape(-1)}
    if "forces" not in found or structures is None:
        return converted
    foreign = found["ids"][~np.isin(found["ids"], structures.ids)]
    if len(foreign):
        raise InputError(f"{split}: {len(foreign)} ids are not in its data set, {some(foreign)}")
    wanted = structures.of(found["ids"])
    counts = row_counts(found)
    bad = np.flatnonzero(counts != wanted.free)
    if len(bad):
        k = bad[0]
        raise InputError(
            f"{split}: {some(wanted.ids[[k]])} has forces of {counts[k]} atoms; expected those of the "
            f"{wanted.free[k]} free ones"
        )
    forces = np.zeros((len(wanted.fixed), 3), found["forces"].dtype)
    forces[~wanted.fixed] = found["forces"]
    return converted | {"forces": forces, "chunk_idx": np.cumsum(wanted.natoms)[:-1]}
