"""Extended XYZ files: parted into frames and counted here, each frame read by ASE.

Of a whole file ASE reads the frames before the first blank line, and of an atom's line the columns that the
frame's ``Properties`` name. Here nothing that a file has is left out in silence.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.calculator import all_properties

from ocp_scn.data.texts import open_text

XYZ = (".extxyz", ".extxyz.xz", ".extxyz.gz", ".xyz", ".xyz.xz", ".xyz.gz")
_PROPERTIES = re.compile(r"""(?<!\S)Properties\s*=\s*["'{\[]?([^\s"'\]}]+)""")
_QUOTED = re.compile(r"""\"(\\.|[^"\\])*\"|'(\\.|[^'\\])*'|\[[^]]*\]|\{[^}]*\}""")
_KEY = re.compile(r"(?<!\S)([^\s=]+)\s*=")
_PLAIN_COLUMNS = 4  # of a frame without Properties: the element and its position
_LOGICAL = {"T", "F", "True", "False"}


def read_xyz(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file, which may be compressed, in order.

    Raises:
        InputError, ValueError, OSError, EOFError, lzma.LZMAError, zlib.error: for a file that is damaged, cut
            short or of another kind, or what ASE raises for the content of a frame.
    """
    with open_text(path) as text:
        for frame in _frames(text):
            yield ase.io.read(io.StringIO("".join(frame)), format="extxyz", index=0)


def _frames(lines: Iterator[str]) -> Iterator[list[str]]:
    """Yield the lines of each frame: number of atoms, comment, atoms, and VEC lines if any."""
    header = next(lines, "")
    while header.strip():
        if not re.fullmatch(r"\s*[0-9]{1,18}\s*", header):
            raise ValueError(f"expected a number of atoms, not {header.strip()[:40]!r}")
        natoms = int(header)
        frame = [header, *islice(lines, natoms + 1)]
        if len(frame) < natoms + 2:
            raise ValueError(f"it is cut short: it has lines of {max(0, len(frame) - 2)} of {natoms} atoms")
        _check_keys(frame[1])
        _check_columns(frame[1], frame[2:])
        header = next(lines, "")
        while header.lstrip().startswith("VEC"):
            frame.append(header)
            header = next(lines, "")
        yield frame
    if any(line.strip() for line in lines):
        raise ValueError("it goes on after a blank line, where frames have to follow each other")


def _check_keys(comment: str) -> None:
    """Check that no key comes twice, of which ASE takes the last."""
    counts = Counter(_KEY.findall(_QUOTED.sub("''", comment)))
    twice = next((key for key, count in counts.items() if count > 1), None)
    if twice is not None and "Properties" in counts:
        raise ValueError(f"its comment has {twice}= {counts[twice]} times")


def _check_columns(comment: str, atoms: Sequence[str]) -> None:
    """Check that the atoms' lines have the columns of the comment's ``Properties``, no fewer and no more."""
    named = _PROPERTIES.search(comment)
    fields = named[1].split(":") if named else []
    counts = [int(count) for count in fields[2::3]]
    if len(fields) % 3 or any(count < 1 for count in counts):
        raise ValueError(f"expected NAME:TYPE:COLUMNS and so on, not Properties={':'.join(fields)}")
    logical, column = [], 0
    for name, kind, count in zip(fields[::3], fields[1::3], counts, strict=True):
        if name in all_properties and kind not in "RI":
            raise ValueError(f"expected numbers, R or I, not Properties={name}:{kind}:{count}")
        if kind == "L":
            logical.append(slice(column, column + count))
        column += count
    for index, line in enumerate(atoms):
        values = line.split()
        if len(values) != column if named else len(values) < _PLAIN_COLUMNS:
            expected = f"{column} of Properties" if named else f"at least {_PLAIN_COLUMNS}"
            raise ValueError(f"atom {index} has {len(values)} columns; expected {expected}")
        strange = {value for part in logical for value in values[part]} - _LOGICAL
        if strange:
            raise ValueError(f"atom {index} has {min(strange)!r} in a logical column; expected T or F")
