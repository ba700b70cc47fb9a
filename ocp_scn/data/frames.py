"""Frames of calculations, read from files and checked one by one."""

from __future__ import annotations

import lzma
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.io.formats import open_with_compression
from ase.neighborlist import neighbor_list

from ocp_scn.data import pickles
from ocp_scn.data.formats import read_ase_lmdb
from ocp_scn.errors import InputError

_XYZ = (".extxyz", ".extxyz.xz", ".extxyz.gz", ".xyz", ".xyz.xz", ".xyz.gz")
_TRAJECTORY = (".traj",)
_DATABASE = (".db",)
_PICKLED = (pickles.SUFFIX,)
_ASE_LMDB = (".aselmdb",)
READABLE = _XYZ + _TRAJECTORY + _DATABASE + _PICKLED + _ASE_LMDB
# Targets beside energy and forces, in a frame's info, its per-atom columns or a database row.
ENERGY_TARGETS = ("y_init", "y_relaxed", "energy_relaxed")
_TARGETS = (*ENERGY_TARGETS, "pos_relaxed", "stress")


@dataclass(frozen=True)
class Frame:
    """One calculated structure.

    Attributes:
        atoms: the structure, tags and fixed atoms included.
        sid: name of its system; frames of one relaxation share it.
        fid: number of the frame within the system; None where the source says that there is only one.
        energy: eV, the reference column of an OC20 pair subtracted; None if not calculated.
        forces: (n, 3) eV/Å without constraints; None if not calculated.
        origin: file and position in it, for messages.
        targets: what else the source says of it, such as ``stress`` (eV/Å³), ``y_relaxed`` and
            ``pos_relaxed``.
    """

    atoms: Atoms
    sid: str
    fid: int | None
    energy: float | None
    forces: np.ndarray | None
    origin: str
    targets: dict[str, Any] = field(default_factory=dict)


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


def has_calculated_energies(files: Iterable[Path]) -> bool:
    """Tell whether energies are as calculated: not adsorption energies of OC20, nor those of a data set."""
    return not any(path.name.endswith(_PICKLED + _ASE_LMDB) or _has_references(path) for path in files)


def read_frames(files: Iterable[Path]) -> Iterator[Frame]:
    """Yield the frames of the files in order.

    The system and frame numbers come from ``sid`` and ``fid`` of a frame's info (or a database
    row's keys), from the text file beside an OC20 ``extxyz.xz`` (lines of system, frame, reference
    energy), or else from the file's name and the frame's position.
    """
    for path in files:
        if path.name.endswith(_PICKLED + _ASE_LMDB):
            yield from _read_samples(path)
            continue
        table = _reference_table(path)
        counter: Counter[str] = Counter()
        for index, (atoms, keys) in enumerate(_read(path)):
            origin = f"{path.name}#{index}"
            if table is not None and index >= len(table):
                raise InputError(f"{origin} has no line in {_text_file(path).name}, which has {len(table)}")
            sid, fid, reference = table[index] if table is not None else (None, None, 0.0)
            sid = str(sid if sid is not None else keys.get("sid", path.name.split(".")[0]))
            fid = int(fid if fid is not None else keys.get("fid", counter[sid]))
            counter[sid] += 1
            energy = _calculated(atoms, "energy")
            yield Frame(
                atoms=_with_fixed_atoms(atoms),
                sid=sid,
                fid=fid,
                energy=None if energy is None else float(energy) - reference,
                forces=_calculated(atoms, "forces"),
                origin=origin,
                targets=_targets(atoms, keys, origin),
            )


def find_fault(
    frame: Frame, *, max_num_elements: int, min_distance: float, labels: bool = True
) -> str | None:
    """Return what makes a frame unfit for training, or None.

    Args:
        frame: the frame.
        max_num_elements: atomic numbers have to be below this.
        min_distance: atoms closer than this overlap, Å.
        labels: it needs energy and forces.
    """
    atoms = frame.atoms
    if len(atoms) == 0:
        return "no atoms"
    arrays = {
        "energy": frame.energy,
        "forces": frame.forces,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
    }
    arrays |= {name: frame.targets[name] for name in _TARGETS if name in frame.targets}
    for name, values in arrays.items():
        if values is None:
            if labels:
                return f"no {name}"
            continue
        if not np.isfinite(values).all():
            return f"not finite: {name}"
    if atoms.numbers.max() >= max_num_elements:
        return f"element {atoms.numbers.max()} is beyond {max_num_elements - 1}"
    if len(neighbor_list("i", atoms, min_distance)) > 0:
        return "atoms overlap"
    return None


def _read_samples(path: Path) -> Iterator[Frame]:
    """Yield the samples of a file of either line of fairchem, with all that they have."""
    for index, (atoms, properties) in enumerate(_samples(path)):
        forces = properties.pop("forces", None)
        yield Frame(
            atoms=atoms,
            sid=str(properties.pop("sid", index)),
            fid=properties.pop("fid", None),
            energy=properties.pop("energy", None),
            forces=None if forces is None else np.asarray(forces, dtype=np.float64).reshape(-1, 3),
            origin=f"{path.name}#{index}",
            targets=properties,
        )


def _samples(path: Path) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    if path.name.endswith(_PICKLED):
        yield from pickles.read_samples(path)
        return
    for atoms, data in read_ase_lmdb([path]):
        yield atoms, {**data, **({} if atoms.calc is None else atoms.calc.results)}


def _read(path: Path) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    """Yield the structures of a file, each with the keys that may name its system and frame."""
    try:
        if path.name.endswith(_DATABASE):
            with ase.db.connect(path) as database:
                for row in database.select():
                    yield row.toatoms(), {**row.data, **row.key_value_pairs}
        elif path.name.endswith(_XYZ):
            with _seekable(path) as text:
                for atoms in ase.io.iread(text, index=":", format="extxyz"):
                    yield atoms, atoms.info
        else:
            for atoms in ase.io.iread(path, index=":"):
                yield atoms, atoms.info
    except (OSError, ValueError, KeyError, IndexError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


@contextmanager
def _seekable(path: Path) -> Iterator[IO[str]]:
    """Open a text file, unpacked to a temporary one if it is compressed.

    ASE jumps about in the file, and every jump back in a compressed one unpacks it from the start.
    """
    if path.suffix not in (".xz", ".gz"):
        with path.open() as text:
            yield text
        return
    with tempfile.TemporaryFile("w+") as text:
        with open_with_compression(path, "rt") as packed:
            shutil.copyfileobj(packed, text)
        text.seek(0)
        yield text


def _reference_table(path: Path) -> list[tuple[str, int, float]] | None:
    """Return (system, frame, reference energy in eV) of each frame of an OC20 pair, or None."""
    if not _has_references(path):
        return None
    text, table = _text_file(path), []
    for number, line in enumerate(text.read_text().split(), start=1):
        try:
            sid, frame, energy = line.split(",")
            table.append((sid, int(frame.removeprefix("frame")), float(energy)))
        except ValueError:
            raise InputError(f"{text.name} line {number} is {line!r}; expected system,frame,energy") from None
    return table


def _has_references(path: Path) -> bool:
    return path.name.endswith(_XYZ) and _text_file(path).is_file()


def _text_file(path: Path) -> Path:
    return path.with_name(path.name.split(".")[0] + ".txt")


def _calculated(atoms: Atoms, name: str) -> Any:
    """Return a calculated property without constraints, or None."""
    if atoms.calc is None:
        return None
    try:
        if name == "energy":
            return atoms.get_potential_energy(apply_constraint=False)
        if name == "stress":
            return np.asarray(atoms.get_stress(apply_constraint=False), dtype=np.float64)
        return np.asarray(atoms.get_forces(apply_constraint=False), dtype=np.float64)
    except (PropertyNotImplementedError, RuntimeError):
        return None


def _targets(atoms: Atoms, keys: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return the targets beside energy and forces: numbers, ``pos_relaxed`` (n, 3), ``stress`` (6,)."""
    known = {**atoms.arrays, **keys, "stress": _calculated(atoms, "stress")}
    found = {name: known[name] for name in _TARGETS if known.get(name) is not None}
    shapes = {"pos_relaxed": (len(atoms), 3), "stress": (6,)}
    for name, value in found.items():
        try:
            array = np.asarray(value, dtype=np.float64).reshape(shapes.get(name, ()))
        except (TypeError, ValueError):
            raise InputError(
                f"{origin} has {name}={value!r}, not numbers of the shape {shapes.get(name, ())}"
            ) from None
        found[name] = array if name in shapes else array.item()
    return found


def _with_fixed_atoms(atoms: Atoms) -> Atoms:
    """Turn a per-atom array ``fixed`` into the constraint that fairchem reads."""
    if "fixed" in atoms.arrays:
        atoms.set_constraint(FixAtoms(mask=atoms.arrays["fixed"].astype(bool)))
    return atoms
