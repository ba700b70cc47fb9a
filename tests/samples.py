"""Data sets of fairchem-core 1.10, made of samples that a test has."""

from collections.abc import Iterable
from pathlib import Path

from torch_geometric.data import Data

from ocp_scn.fairchem.v1.lmdb import LmdbWriter


def write_lmdb(folder: Path, samples: Iterable[Data]) -> int:
    """Write all samples into ``folder`` and return their number."""
    with LmdbWriter(folder) as writer:
        for sample in samples:
            writer.add(sample)
    return len(writer.natoms)
