"""Write structures in the ASE-LMDB format that fairchem-core 2's trainers read.

A data set is a folder with files ``data.0000.aselmdb``, …, ``metadata.npz`` (``natoms`` of each sample) and
``elements.npz``.
A row has the structure with its tags and fixed atoms, the calculated energy, forces and stress, and in its
data ``sid``, ``fid`` and every other target.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ocp_scn.data.constraints import held_atoms
from ocp_scn.fairchem.aselmdb import Growing, connect
from ocp_scn.fairchem.training_data import METADATA_FILE, write_elements
from ocp_scn.npz import write_npz

CALCULATED = ("energy", "forces", "stress")
# The database looks through a list of its rows for every new one.
_ROWS_OF_A_FILE = 10_000
_ROWS_AT_A_TIME = 100


class AseLmdbWriter:
    """Write samples one by one into a folder, and read them back in the end; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.natoms: list[int] = []
        self._elements: set[int] = set()
        self._digests: list[int] = []
        self._database: Any = None
        self._pending: list[tuple[Atoms, dict[str, Any]]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, atoms: Atoms, **properties: Any) -> None:
        """Append a structure.

        Args:
            atoms: positions in Å, as they are; tags and ``FixAtoms`` constraints are kept.
            properties: ``energy`` (eV), ``forces`` (n, 3) eV/Å, ``stress`` (3, 3) or (6,) eV/Å³, and data:
                ``sid`` (becomes a string, which fairchem asks for), ``fid``, other targets.
        """
        if len(self.natoms) % _ROWS_OF_A_FILE == 0:
            self._close()
            self._database = Growing(self.folder / f"data.{len(self.natoms) // _ROWS_OF_A_FILE:04}.aselmdb")
        results = {name: properties.pop(name) for name in CALCULATED if name in properties}
        if "stress" in results and np.size(results["stress"]) == 9:
            results["stress"] = full_3x3_to_voigt_6_stress(np.reshape(results["stress"], (3, 3)))
        if "sid" in properties:
            properties["sid"] = str(properties["sid"])
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        self._pending.append((copy, properties))
        if len(self._pending) == _ROWS_AT_A_TIME:
            self._flush()
        self._digests.append(_digest(copy, properties))
        self.natoms.append(len(copy))
        self._elements.update(copy.numbers.tolist())

    def __enter__(self) -> AseLmdbWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self._pending = []
        self._close()
        if kind is None:
            self._verify()
            natoms = np.array(self.natoms, dtype=np.int64)
            write_npz(self.folder / METADATA_FILE, [("natoms", natoms)])
            write_elements(self.folder, self._elements)

    def _flush(self) -> None:
        self._database.write_rows(self._pending)
        self._pending = []

    def _close(self) -> None:
        if self._database is not None:
            with closing(self._database):
                self._flush()
                self._database.env.sync(True)
            self._database = None

    def _verify(self) -> None:
        """Compare what was written with what can be read."""
        read = [_digest(atoms, data) for atoms, data in read_rows(sorted(self.folder.glob("*.aselmdb")))]
        if read != self._digests:
            raise OSError(f"{self.folder}: what was written cannot be read back; is the disk full?")


def read_rows(files: Iterable[Path]) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    """Yield each row's structure, with its calculator, and its data.

    Raises:
        UnreadableError: for a file that is damaged or foreign.
    """
    for path in files:
        with closing(connect(path)) as database:
            for row in database.select():
                yield row.toatoms(), dict(row.data)


def _digest(atoms: Atoms, data: dict[str, Any]) -> int:
    """Return a checksum of everything that a row has to keep."""
    known = {} if atoms.calc is None else atoms.calc.results
    results = {name: known[name] for name in CALCULATED if name in known}
    fixed = held_atoms(atoms)
    parts = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_tags(), fixed]
    parts += [value for _, value in sorted({**results, **data}.items())]
    return zlib.crc32(b"|".join(_bytes(part) for part in parts))


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else np.asarray(value, dtype=np.float64).tobytes()
