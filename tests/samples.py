"""Data sets of fairchem-core 1.10, made of samples that a test has."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch_geometric.data import Data

from ocp_scn.fairchem.v1.lmdb import LmdbWriter


def write_lmdb(folder: Path, samples: Iterable[Data]) -> int:
    """Write all samples into ``folder`` and return their number; those without elements are of hydrogen."""
    with LmdbWriter(folder) as writer:
        for sample in samples:
            if "atomic_numbers" not in sample:
                sample.atomic_numbers = torch.ones(int(sample.natoms))
            writer.add(sample)
    return len(writer.natoms)
