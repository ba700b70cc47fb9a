"""Frames of calculations, read from files and checked one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from ase import Atoms

from ocp_scn.data import pickles
from ocp_scn.data.constraints import fix_held_atoms
from ocp_scn.data.files import PICKLED, READABLE, SAMPLES, read_structures
from ocp_scn.data.fixed import fixed_mask
from ocp_scn.data.formats import read_ase_lmdb
from ocp_scn.data.labels import LabelKeys, read_labels
from ocp_scn.data.xyz import XYZ
from ocp_scn.errors import InputError, UnreadableError, cause, refuse, shown

_STRUCTURE = {"numbers", "positions", "tags", "fixed", "sid", "fid"}


@dataclass(frozen=True)
class Frame:
    """One calculated structure.

    Attributes:
        atoms: the structure, tags and fixed atoms (``FixAtoms``) included.
        sid: name of its system; frames of one relaxation share it.
        fid: number of the frame within the system; None where the source says that there is only one.
        energy: eV, the reference column of an OC20 pair subtracted; None if not calculated.
        forces: (n, 3) eV/Å without constraints; None if not calculated.
        origin: file and position in it, for messages.
        targets: what else the source says of it, such as ``stress`` (eV/Å³), ``y_relaxed`` and
            ``pos_relaxed``.
        others: names of what the source says and nothing above has.
        lost: kinds of its constraints that fixed atoms do not tell all of.
        constraints: its constraints as the source has them.
    """

    atoms: Atoms
    sid: str
    fid: int | None
    energy: float | None
    forces: np.ndarray | None
    origin: str
    targets: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    lost: Sequence[str] = ()
    constraints: Sequence[Any] = ()


def find_files(source: Path) -> list[Path]:
    """Return the readable files of ``source``, a file or a folder (searched through).

    Raises:
        InputError: if there is none.
    """
    if not source.exists():
        raise InputError(f"source {str(source)!r} does not exist")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    files = [path for path in files if path.name.endswith(READABLE)]
    if not files:
        raise InputError(f"source {str(source)!r} has no file of the kinds {', '.join(READABLE)}")
    return files


def foreign_files(source: Path) -> list[Path]:
    """Return the files of a folder that `find_files` leaves out, those apart that go with others."""
    if source.is_file():
        return []
    files = sorted(path for path in source.rglob("*") if path.is_file())
    known = {_text_file(path) for path in files if path.name.endswith(XYZ)}
    return [
        path
        for path in files
        if not path.name.endswith(READABLE)
        and path not in known
        and path.name not in ("metadata.npz", "elements.npz")
    ]


def file_name(path: Path, source: Path) -> str:
    """Return a file's name in a source, with the folders on the way to it."""
    return path.relative_to(source).as_posix() if source.is_dir() else path.name


def system_of(name: str) -> str:
    """Return the system that a file's name gives to its frames: without its known suffix, decoded.

    Relaxations percent-encode the systems' names for their trajectories.
    """
    return unquote(_stem(name))


def _stem(name: str) -> str:
    return name.removesuffix(max((end for end in READABLE if name.endswith(end)), key=len, default=""))


def has_calculated_energies(files: Iterable[Path]) -> bool:
    """Tell whether energies are as calculated: not adsorption energies of OC20, nor those of a data set."""
    return not any(path.name.endswith(SAMPLES) or _has_references(path) for path in files)


def read_frames(
    files: Iterable[Path],
    source: Path | None = None,
    *,
    keys: LabelKeys = LabelKeys(),  # noqa: B008  # it never changes
    sids_by_file: bool = False,
    unreadable: Callable[[UnreadableError], None] = refuse,
) -> Iterator[Frame]:
    """Yield the frames of the files in order.

    The system and frame numbers come from ``sid`` and ``fid`` of a frame's info (or a database
    row's keys), from the text file beside an OC20 ``extxyz.xz`` (lines of system, frame, reference
    energy), or else from the file's name and the frame's position.

    Args:
        files: those of `find_files`.
        source: the folder in which they were found, from which their names count.
        keys: names of the labels.
        sids_by_file: put a file's name before each ``sid`` that is in it.
        unreadable: is called for a file, or the rest of one, and for a frame that cannot be read.
    """
    for path in files:
        name = path.name if source is None else file_name(path, source)
        samples = path.name.endswith(SAMPLES)
        read = _read_samples if samples else _read_calculations
        try:
            _check_size(path)
            for frame, named in read(path, name, keys, unreadable):
                before = f"{system_of(name)}/" if named and sids_by_file else ""
                yield replace(frame, sid=before + frame.sid)
        except UnreadableError as error:
            unreadable(error)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableError(f"{str(path)!r} cannot be read: {cause(error)}") from error
    if size == 0:
        raise UnreadableError(f"{str(path)!r} is empty: it has 0 bytes")


def _read_calculations(
    path: Path, name: str, keys: LabelKeys, unreadable: Callable[[UnreadableError], None]
) -> Iterator[tuple[Frame, bool]]:
    """Yield the frames of a file of ASE's formats, and whether it names their systems."""
    table = _reference_table(path)
    places = {(sid, fid): line for line, (sid, fid, _) in enumerate(table or [])}
    counter: Counter[str] = Counter()
    index = -1
    for index, atoms in enumerate(read_structures(path)):
        origin, info = f"{name}#{index}", atoms.info
        if table is not None and index >= len(table):
            raise UnreadableError(f"{origin} has no line in {_text_file(path).name}, which has {len(table)}")
        sid, fid, reference = table[index] if table is not None else (None, None, 0.0)
        named = sid is not None or "sid" in info
        try:
            sid = _system(info.get("sid", system_of(name)) if sid is None else sid, origin)
            _check_line(info, index, places, name)
        except UnreadableError as error:
            unreadable(error)
            continue
        position = counter[sid]
        counter[sid] += 1
        try:
            results = {} if atoms.calc is None else atoms.calc.results
            labels = read_labels({**atoms.arrays, **info, **results}, atoms, keys, origin)
            constraints, lost = list(atoms.constraints), _fix_atoms(atoms, info, origin)
            frame = Frame(
                atoms=atoms,
                sid=sid,
                fid=_frame_number(fid if fid is not None else info.get("fid", position), origin),
                energy=None if labels.energy is None else labels.energy - reference,
                forces=labels.forces,
                origin=origin,
                targets=labels.targets,
                others=tuple(other for other in labels.others if other not in _STRUCTURE),
                lost=lost,
                constraints=constraints,
            )
        except UnreadableError as error:
            unreadable(error)
            continue
        yield frame, named
    if index < 0:
        raise UnreadableError(f"{str(path)!r} has no frame")
    if table is not None and index + 1 < len(table):
        lines = f"{_text_file(path).name} has {len(table)} lines"
        raise UnreadableError(f"{str(path)!r} is cut short: it has {index + 1} frames, {lines}")


def _read_samples(
    path: Path, name: str, keys: LabelKeys, unreadable: Callable[[UnreadableError], None]
) -> Iterator[tuple[Frame, bool]]:
    """Yield the samples of a file of either line of fairchem, with all that they have; as above."""
    for index, atoms, properties in _samples(path, unreadable):
        origin = f"{name}#{index}"
        try:
            labels = read_labels(properties, atoms, keys, origin)
            fid = properties.get("fid")
            kept = [other for other in labels.others if other not in {"sid", "fid", "fixed", *vars(keys)}]
            constraints, lost = list(atoms.constraints), _fix_atoms(atoms, properties, origin)
            frame = Frame(
                atoms=atoms,
                sid=_system(properties.get("sid", f"{system_of(name)}-{index}"), origin),
                fid=None if fid is None else _frame_number(fid, origin),
                energy=labels.energy,
                forces=labels.forces,
                origin=origin,
                targets={**{other: properties[other] for other in kept}, **labels.targets},
                others=tuple(other for other in labels.others if other in vars(keys)),
                lost=lost,
                constraints=constraints,
            )
        except UnreadableError as error:
            unreadable(error)
            continue
        yield frame, "sid" in properties


def _samples(
    path: Path, unreadable: Callable[[UnreadableError], None]
) -> Iterator[tuple[int, Atoms, dict[str, Any]]]:
    """Yield position, structure and properties of each sample."""
    if path.name.endswith(PICKLED):
        yield from pickles.read_samples(path, unreadable)
        return
    index = -1
    for index, (atoms, data) in enumerate(read_ase_lmdb([path])):
        yield index, atoms, {**data, **({} if atoms.calc is None else atoms.calc.results)}
    if index < 0:
        raise UnreadableError(f"{str(path)!r} has no frame")


def _system(value: Any, origin: str) -> str:
    """Return the name of a system, which may be a number."""
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iufU" or array != array:  # noqa: PLR0124  # NaN is no name
        raise UnreadableError(f"{origin} has sid={shown(value)}; expected a text or a number")
    return str(value)


def _check_line(info: Mapping[str, Any], index: int, lines: Mapping[tuple[str, int], int], path: str) -> None:
    """Check that the line of an OC20 pair's text at a frame's place is the frame's, where that has an id.

    Ids that no line has are names of another kind; those of the text prevail.
    """
    if "sid" not in info or "fid" not in info:
        return
    line = lines.get((str(info["sid"]), _frame_number(info["fid"], f"{path}#{index}")), index)
    if line != index:
        raise UnreadableError(f"{path}#{index} is the frame of line {line + 1} of its text, not {index + 1}")


def _frame_number(value: Any, origin: str) -> int:
    """Return the number of a frame, which may be written as OC20's "frame3"."""
    try:
        number = int(value.removeprefix("frame") if isinstance(value, str) else value)
        if isinstance(value, str) or (number == value and not isinstance(value, bool | np.bool_)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UnreadableError(f"{origin} has fid={shown(value)}; expected an integer, or 'frame3' for 3")


def _reference_table(path: Path) -> list[tuple[str, int, float]] | None:
    """Return (system, frame, reference energy in eV) of each frame of an OC20 pair, or None."""
    if not _has_references(path):
        return None
    text, table = _text_file(path), []
    try:
        lines = text.read_text().split()
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{str(text)!r} cannot be read: {cause(error)}") from error
    for number, line in enumerate(lines, start=1):
        try:
            sid, frame, energy = line.split(",")
            table.append((sid, int(frame.removeprefix("frame")), float(energy)))
        except ValueError:
            expected = "expected system,frame,energy"
            raise UnreadableError(f"{str(text)!r} line {number} is {line!r}; {expected}") from None
    return table


def _has_references(path: Path) -> bool:
    return path.name.endswith(XYZ) and _text_file(path).exists()


def _text_file(path: Path) -> Path:
    return path.with_name(_stem(path.name) + ".txt")


def _fix_atoms(atoms: Atoms, keys: Mapping[str, Any], origin: str) -> list[str]:
    """Leave ``FixAtoms`` alone of the constraints; return the kinds of those that it does not tell all of.

    Atoms that ``fixed`` names, a per-atom array or one of the keys, are fixed too.
    """
    column = atoms.arrays.get("fixed", keys.get("fixed"))
    try:
        mask = None if column is None else fixed_mask(column, len(atoms))
    except ValueError as error:
        raise UnreadableError(f"{origin} has {error}") from error
    try:
        return fix_held_atoms(atoms, mask)
    except (IndexError, ValueError) as error:
        message = f"{origin} has a constraint that does not fit its atoms or cell: {error}"
        raise UnreadableError(message) from error
