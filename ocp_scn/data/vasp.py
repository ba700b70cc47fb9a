"""POSCAR and XDATCAR files, whose counts are compared with what they have before ASE reads them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from ase import Atoms
from ase.io.vasp import read_vasp, read_vasp_xdatcar

from ocp_scn.data.texts import open_text

_FRAME = "Direct configuration="  # in the line before the atoms of each


def read_poscar(path: Path) -> Iterator[Atoms]:
    """Yield the structure of a POSCAR or CONTCAR file.

    Raises:
        ValueError: if it does not have what it declares.
        Exception: what ASE raises.
    """
    lines = _lines(path)
    place, count = _counts(lines)
    selective = lines[place + 1].strip()[:1].lower() == "s"
    first = place + (3 if selective else 2)
    _check_places(lines, first, count, flags=selective)
    after = lines[first + count] if len(lines) > first + count else ""
    if len(after.split()) >= 3 and _is_number(after.split()[0]):
        raise ValueError(f"it declares {count} atoms, and line {first + count + 1} has the place of another")
    file = io.StringIO("\n".join(lines))
    file.name = str(path)  # beside which ASE looks for the elements of old files
    yield read_vasp(file)


def read_xdatcar(path: Path) -> Iterator[Atoms]:
    """Yield the structures of an XDATCAR file.

    Raises:
        ValueError: if it does not have what it declares.
        Exception: what ASE raises.
    """
    lines = _lines(path)
    line = count = 0
    while line < len(lines):  # ASE ends without a word where it finds no frame
        if _FRAME not in lines[line] and (line == 0 or _is_number("".join(lines[line + 1 : line + 2]))):
            place, count = _counts(lines, line)
            line = place + 1
        if _FRAME not in lines[line]:
            raise ValueError(f"line {line + 1} is {lines[line]!r}; expected {_FRAME!r}")
        _check_places(lines, line + 1, count)
        line += count + 1
    yield from read_vasp_xdatcar(io.StringIO("\n".join(lines)), index=slice(None))


def _lines(path: Path) -> list[str]:
    with open_text(path, encoding="latin-1") as file:
        return file.read().rstrip().split("\n")  # not at what else ends lines, a byte of Å in a comment


def _counts(lines: Sequence[str], start: int = 0) -> tuple[int, int]:
    """Return the index of the line with the counts of atoms, and their sum, of a header from a line on.

    Raises:
        ValueError: if that is not positive, or more than there are lines.
    """
    if len(lines) < start + 8:
        raise ValueError(f"it is cut short: it has {len(lines)} lines, and its header is not whole")
    names, place = lines[start + 5], start + 5
    if not names.split()[:1] or not names.split()[0].isdecimal():  # else there is no line of elements
        place += 1
    counts = lines[place].split("!")[0].split()
    symbols = names.split("!")[0].split("#")[0].split()
    if not all(count.isdecimal() for count in counts) or not sum(map(int, counts)):
        raise ValueError(f"line {place + 1} is {lines[place]!r}; expected counts of atoms")
    if place > start + 5 and len(symbols) != len(counts):
        raise ValueError(f"it has the elements {names.strip()!r}, and the counts {lines[place].strip()!r}")
    count, left = sum(map(int, counts)), len(lines) - place - 2
    if count > left:
        raise ValueError(f"it declares {count} atoms, and has no more than {left} lines of them")
    return place, count


def _check_places(lines: Sequence[str], first: int, count: int, *, flags: bool = False) -> None:
    """Raise `ValueError` for a line that is no place of an atom; ASE takes one number for three."""
    expected = "three numbers and three flags, T or F" if flags else "three numbers, and no flags"
    if first + count > len(lines):
        raise ValueError(f"it is cut short: its last {count} atoms have {len(lines) - first} lines")
    for number, line in enumerate(lines[first : first + count], start=first + 1):
        words = line.split()
        if len(words) < 3 or (len(words) >= 6 and set(words[3:6]) <= {"T", "F"}) != flags:
            raise ValueError(f"line {number} is {line!r}; expected {expected}")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
