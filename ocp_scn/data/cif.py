"""CIF files, of which ASE's reader leaves out what it does not understand."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.cif import CIFBlock, parse_cif

from ocp_scn.data.texts import open_text
from ocp_scn.errors import cause

# What ASE warns of where it leaves out a row of a loop, a column, or the end of a number.
_LOST = "Wrong number|Badly formed number|Duplicated loop tags"
# A block without atoms is text about others, unless it has these.
_OF_STRUCTURES = ("_cell_length_", "_atom_site_", "_chemical_formula_")
_OCCUPIED = 0.01  # by how much the occupancy of a site may differ from 1


def read_cif(path: Path) -> Iterator[Atoms]:
    """Yield the structures of a CIF file, one for each block that has one.

    Raises:
        ValueError: for a structure of which something is missing, or that is not ordered.
        Exception: what ASE raises.
    """
    with open_text(path, encoding="latin-1") as file:
        text = file.read()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", _LOST, UserWarning)
        try:
            blocks = list(parse_cif(io.StringIO(text)))
        except UserWarning as error:
            raise ValueError(cause(error)) from error
    cells = len(re.findall(r"^\s*_cell_length_a\b", text, re.MULTILINE | re.IGNORECASE))
    if cells > sum("_cell_length_a" in block for block in blocks):
        raise ValueError("it has more cells than blocks")
    for block in blocks:
        fault = _fault(block)
        if fault is not None:
            raise ValueError(f"block {block.name!r} has {fault}")
        if not block.has_structure():
            continue
        atoms = block.get_atoms()
        fault = _difference(block, atoms)
        if fault is not None:
            raise ValueError(f"block {block.name!r} has {fault}")
        yield atoms


def _fault(block: CIFBlock) -> str | None:
    """Return what a block lacks, or has that no structure tells."""
    if not block.has_structure() or not block.get_symbols():
        found = next((tag for tag in block if tag.startswith(_OF_STRUCTURES)), None)
        return None if found is None else f"{found} and no atoms"
    if block.get_cellpar() is None and "_atom_site_fract_x" in block:
        missing = [tag for tag in block.cell_tags if tag not in block]
        return f"positions in a cell, and no {missing[0]}"
    occupancies = block.get("_atom_site_occupancy") or []
    for site, occupancy in enumerate(occupancies if isinstance(occupancies, list) else [occupancies]):
        if occupancy in (".", "?"):
            continue
        if isinstance(occupancy, str) or not abs(occupancy - 1) <= _OCCUPIED:
            return f"the occupancy {occupancy} at site {site}; expected 1: take an ordered structure"
    return None


def _difference(block: CIFBlock, atoms: Atoms) -> str | None:
    """Return what the sites and the formula of a block have, and its structure does not."""
    sites = len(block.get_symbols())
    if len(atoms) < sites:
        return f"{sites} sites at {len(atoms)} places"
    formula = block.get("_chemical_formula_sum")
    declared = _counts(formula) if isinstance(formula, str) else None
    if declared is None:
        return None
    found = Counter(atoms.symbols)
    units = [found[symbol] / count for symbol, count in declared.items()]
    alike = found.keys() == declared.keys() and np.allclose(units, max(1, round(units[0])), rtol=1e-3)
    return None if alike else f"_chemical_formula_sum {formula!r}, and its atoms are {atoms.symbols}"


def _counts(formula: str) -> dict[str, float] | None:
    """Return the atoms of each element in a formula unit; None of what is no formula."""
    counts: defaultdict[str, float] = defaultdict(float)
    for word in formula.split():
        found = re.fullmatch(r"([A-Z][a-z]?)(\d*\.?\d*)", word)
        if found is None:
            return None
        symbol, count = found.groups()
        counts["H" if symbol == "D" else symbol] += float(count or 1)
    return counts if all(counts.values()) else None
