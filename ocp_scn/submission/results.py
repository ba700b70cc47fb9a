"""Predictions and relaxations of a split, joined from the result files of one or several jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import RELAXED_FILE
from ocp_scn.npz import Npz
from ocp_scn.submission.archive import TRACKS, block_rows
from ocp_scn.submission.arrays import row_counts, shape_faults

Results = dict[str, np.ndarray]  # as fairchem names and shapes them, in its order


def read_results(paths: Sequence[Path], track: str) -> Results:
    """Read and join the results of a split, sorted by id as fairchem sorts those of one job.

    Args:
        paths: npz files, or a run's ``results/NAME`` folders.
        track: ``s2ef``, ``is2re`` or ``is2rs``; what the track does not need is left out.

    Raises:
        InputError: for files that cannot be read or lack something, an id that comes twice, or parts
            of different precision.
    """
    parts = [_read(find_result(path, track), track) for path in paths]
    _refuse_mixed(parts, paths)
    _refuse_doubled([part["ids"] for part in parts], paths)
    return _join(parts)


def find_result(path: Path, track: str) -> Path:
    """Return the result file of a run's ``results/NAME`` folder, or the file itself.

    Raises:
        InputError: if there is none, or two for IS2RE.
    """
    if path.is_file():
        return path
    patterns = {"s2ef": ["*predictions.npz"], "is2re": ["*predictions.npz", RELAXED_FILE]}.get(
        track, [RELAXED_FILE]
    )
    found = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    if len(found) > 1:
        raise InputError(f"{path} has {' and '.join(file.name for file in found)}; name the file")
    if not found:
        unfinished = "; its relaxations are unfinished" if (path / "relaxed_parts").is_dir() else ""
        raise InputError(f"{path} has no {' or '.join(patterns)}{unfinished}")
    return found[0]


def _read(path: Path, track: str) -> Results:
    archive = Npz(path)
    for key in TRACKS[track]:
        if key not in archive.keys:
            raise InputError(f"{path} has no {key!r}; it has {', '.join(archive.keys)}")
    results = {key: archive[key] for key in archive.keys if key in TRACKS[track]}
    faults = shape_faults(results)
    if faults:
        raise InputError(f"{path}: {faults[0]}")
    return results


def _refuse_mixed(parts: Sequence[Results], paths: Sequence[Path]) -> None:
    """Refuse parts in float16 and float32, or of predictions and relaxations."""
    for key in ("energy", "forces", "pos"):
        kinds = {
            f"{part[key].dtype} of {part[key].ndim} dimensions": path
            for part, path in zip(parts, paths, strict=True)
            if key in part
        }
        if len(kinds) > 1:
            raise InputError(f"{key} is " + ", ".join(f"{kind} in {path}" for kind, path in kinds.items()))


def _refuse_doubled(ids: list[np.ndarray], paths: Sequence[Path]) -> None:
    names, counts = np.unique(np.concatenate(ids), return_counts=True)
    if (counts == 1).all():
        return
    name = names[counts > 1][0]
    where = [str(path) for path, part in zip(paths, ids, strict=True) if name in part]
    raise InputError(f"id {str(name)!r} comes {counts[counts > 1][0]} times, in {' and '.join(where)}")


def _join(parts: Sequence[Results]) -> Results:
    """Return the results of all parts, sorted by id; forces or positions move with their ids."""
    rows = next((key for key in ("forces", "pos") if key in parts[0]), None)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "chunk_idx"}
    order = np.argsort(joined["ids"])
    results = dict.fromkeys(parts[0], np.empty(0))  # keeps the order of the keys
    for key in joined:
        if key != rows:
            results[key] = joined[key][order]
    if rows is not None:
        counts = np.concatenate([row_counts(part) for part in parts])
        results[rows] = joined[rows][block_rows(counts, order)]
        results["chunk_idx"] = np.cumsum(counts[order])[:-1]
    return results
