"""What a file for a leaderboard has, and what keeps the leaderboard from scoring it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from ocp_scn.arrays import Arrays, row_counts, row_name, shape_faults, some, value_faults
from ocp_scn.errors import InputError
from ocp_scn.npz import Npz
from ocp_scn.submission.archive import FORMATS, SPLITS, TRACKS
from ocp_scn.submission.compare import complete, structure_faults
from ocp_scn.submission.structures import Structures


@dataclass
class Findings:
    """What a file has, split by split, and what is wrong with it."""

    track: str
    formats: dict[str, set[str]] = field(default_factory=dict)  # that a split may be in
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return a table of the splits, then faults and notes."""
        common = set(FORMATS).intersection(*self.formats.values())
        lines = [f"{self.track.upper()}, format {' or '.join(sorted(common)) or 'unclear'}"]
        columns = dict.fromkeys(name for counts in self.counts.values() for name in counts)
        lines.append(f"  {'':9}" + "".join(f"{name:>15}" for name in columns))
        for split, counts in self.counts.items():
            lines.append(f"  {split:9}" + "".join(f"{counts.get(name, 0):>15}" for name in columns))
        lines += [f"fault: {text}" for text in self.faults] + [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def check_file(
    path: Path, data_sets: Mapping[str, Structures] | None = None, file_format: str | None = None
) -> Findings:
    """Return what is in a file for a leaderboard, and all that is wrong with it.

    Args:
        path: an npz file of any track.
        data_sets: the structures of each split; without them, missing structures, swapped splits and wrong
            numbers of atoms go unnoticed.
        file_format: ``evalai`` or ``current``; either if not given.

    Raises:
        InputError: if the file cannot be read.
    """
    archive = Npz(path)
    findings = Findings(_track(archive.keys))
    _check_keys(archive.keys, findings)
    ids: dict[str, np.ndarray] = {}
    for split in SPLITS:
        arrays = _read_split(archive, split, findings)
        if arrays is not None:
            _check_split(split, arrays, data_sets, findings)
        if arrays is not None and split in findings.counts:
            ids[split] = arrays["ids"]
    _check_shared(ids, data_sets, findings)
    _check_format(file_format, findings)
    if data_sets is None:
        findings.notes.append(
            "without --against, missing structures, swapped splits and wrong numbers of atoms go unnoticed"
        )
    return findings


def _track(keys: list[str]) -> str:
    names = {key.removeprefix(f"{split}_") for split in SPLITS for key in keys}
    return "s2ef" if "forces" in names else "is2rs" if "pos" in names else "is2re"


def _check_keys(keys: list[str], findings: Findings) -> None:
    """Find what is missing; what is too much is only mentioned."""
    names = TRACKS[findings.track]
    for split in SPLITS:
        lacking = [f"{split}_{name}" for name in names if f"{split}_{name}" not in keys]
        if lacking:
            findings.faults.append(f"{split}: no {', '.join(lacking)}")
    surplus = sorted(set(keys) - {f"{split}_{name}" for split in SPLITS for name in names})
    if surplus:
        findings.notes.append(f"the leaderboard does not read {', '.join(surplus)}")


def _read_split(archive: Npz, split: str, findings: Findings) -> Arrays | None:
    """Return the arrays of a split, or None where some are missing or cannot be read."""
    names = TRACKS[findings.track]
    if any(f"{split}_{name}" not in archive.keys for name in names):
        return None
    try:
        return {name: archive[f"{split}_{name}"] for name in names}
    except InputError as error:
        findings.faults.append(f"{split}: {error}")
        return None


def _check_split(
    split: str, arrays: Arrays, data_sets: Mapping[str, Structures] | None, findings: Findings
) -> None:
    faults = shape_faults(arrays)
    structures = None if data_sets is None else data_sets[split]
    if not faults:
        faults = value_faults(arrays)
        if data_sets is not None:
            faults += structure_faults(split, arrays, data_sets)
        findings.counts[split] = _counts(arrays, structures)
        findings.formats[split] = _formats(arrays, structures)
        findings.notes += [f"{split}: {text}" for text in _rounding(arrays)]
    findings.faults += [f"{split}: {text}" for text in faults]


def _counts(arrays: Arrays, structures: Structures | None) -> dict[str, int]:
    """Return how many structures, systems, atoms (of the data set) and rows (of the file) there are."""
    systems = len({str(name).split("_")[0] for name in arrays["ids"]})
    counts = {"structures": len(arrays["ids"]), "systems": systems}
    if structures is not None:
        counts["atoms"] = int(structures.natoms[np.isin(structures.ids, arrays["ids"])].sum())
    if "chunk_idx" in arrays:
        rows = row_name(arrays)
        counts["positions" if rows == "pos" else rows] = len(arrays[rows])
    return counts


def _formats(arrays: Arrays, structures: Structures | None) -> set[str]:
    """Return the formats that the arrays may be in."""
    if "pos" in arrays or arrays["energy"].ndim == 2:
        return {"evalai"}
    if "forces" not in arrays or structures is None or structures.fixed.sum() == 0:
        return set(FORMATS)
    known = np.isin(arrays["ids"], structures.ids)
    if not known.any():
        return set(FORMATS)
    whole = complete(row_counts(arrays)[known], structures.of(arrays["ids"][known]))
    return {"current" if whole else "evalai"}


def _rounding(arrays: Arrays) -> list[str]:
    """Say what float16 leaves of the energies."""
    energy = arrays.get("energy")
    if energy is None or energy.dtype != np.float16 or not np.isfinite(energy).any():
        return []
    step = float(np.spacing(np.abs(energy[np.isfinite(energy)]).max()))
    return [f"energies in float16 are rounded by up to {step / 2:.2g} eV"]


def _check_shared(
    ids: Mapping[str, np.ndarray], data_sets: Mapping[str, Structures] | None, findings: Findings
) -> None:
    """Find ids that two splits have, unless their data sets do."""
    for one, other in combinations(ids, 2):
        shared = np.intersect1d(ids[one], ids[other])
        if data_sets is not None:
            both = np.intersect1d(data_sets[one].ids, data_sets[other].ids)
            shared = np.setdiff1d(shared, both)
        if len(shared):
            findings.faults.append(f"{len(shared)} ids are in {one} and in {other}, {some(shared)}")


def _check_format(wanted: str | None, findings: Findings) -> None:
    """Find splits of another format than is wanted, or than the other splits."""
    common = set(FORMATS).intersection(*findings.formats.values())
    if wanted is not None:
        common &= {wanted}
    if not common:
        found = ", ".join(
            f"{split} {' or '.join(sorted(names))}" for split, names in findings.formats.items()
        )
        findings.faults.append(f"the splits are of the formats {found}; expected {wanted or 'one'}")
