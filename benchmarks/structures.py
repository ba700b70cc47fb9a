"""Generated slabs with an adsorbate, of the sizes of OC20."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import add_adsorbate, fcc111
from torch_geometric.data import Batch, Data

# Atoms along the cell vectors and layers, by the name of the size.
SIZES = {38: (3, 3, 4), 66: (4, 4, 4), 102: (5, 5, 4), 198: (7, 7, 4)}
METALS = ("Cu", "Pt", "Ni", "Pd")


def slab(size: tuple[int, int, int], seed: int) -> Data:
    """Return a rattled fcc (111) slab with an OH group on it, as fairchem's readers return structures."""
    rng = np.random.default_rng(seed)
    atoms = fcc111(METALS[seed % len(METALS)], size=size, vacuum=10.0)
    add_adsorbate(atoms, "O", 1.3, position="fcc")
    add_adsorbate(atoms, "H", 2.2, position="fcc")
    atoms.pbc = True
    positions = atoms.get_positions() + rng.normal(scale=0.05, size=(len(atoms), 3))
    return Data(
        pos=torch.tensor(positions, dtype=torch.float32),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        atomic_numbers=torch.tensor(atoms.numbers),
        natoms=torch.tensor([len(atoms)]),
        pbc=torch.tensor([True, True, True]),
    )


def slabs(num_atoms: int, batch_size: int = 1) -> Batch:
    """Return a batch of slabs of ``num_atoms``: one of `SIZES`, or about as many in a square cell."""
    width = round(((num_atoms - 2) / 4) ** 0.5)
    size = SIZES.get(num_atoms, (width, width, 4))
    return Batch.from_data_list([slab(size, seed) for seed in range(batch_size)])
