"""Small random structures, as the data that fairchem's readers return."""

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch_geometric.data import Batch, Data

from ocp_scn.fairchem.systems import Systems

PERIODIC = torch.tensor([True, True, True])


def bulk(num_atoms: int, seed: int, *, edge: float = 6.5) -> Data:
    """Return atoms at random places of a skewed periodic cell with edges of about ``edge`` Å."""
    generator = _generator(seed)
    skew = 0.15 * edge * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    cell = edge * torch.eye(3, dtype=torch.float64) + skew
    return _structure(_apart(num_atoms, generator) @ cell, cell, PERIODIC, generator)


def slab(num_atoms: int, seed: int) -> Data:
    """Return a layer of atoms, 3 Å thick and periodic, under 15 Å of vacuum along the third edge."""
    generator = _generator(seed)
    cell = torch.tensor([[5.8, 0.0, 0.0], [1.5, 5.5, 0.0], [0.0, 0.0, 18.0]], dtype=torch.float64)
    fractional = _apart(num_atoms, generator) * torch.tensor([1.0, 1.0, 1 / 6], dtype=torch.float64)
    return _structure(fractional @ cell, cell, PERIODIC, generator)


def molecule(num_atoms: int, seed: int) -> Data:
    """Return a cluster of atoms without a cell."""
    generator = _generator(seed)
    pos = 4.5 * _apart(num_atoms, generator) - 2
    return _structure(pos, torch.zeros(3, 3, dtype=torch.float64), ~PERIODIC, generator)


def crystal(spacing: float = 2.5) -> Data:
    """Return a simple cubic cell of 2 x 2 x 2 atoms: equal distances, edges along the axes."""
    generator = _generator(0)
    places = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * 3)
    return _structure(spacing * places, 2 * spacing * torch.eye(3, dtype=torch.float64), PERIODIC, generator)


def batch_of(*structures: Data, dtype: torch.dtype = torch.float64) -> Batch:
    """Return a batch of ``structures`` with positions and cells in ``dtype``."""
    copies = [structure.clone() for structure in structures]
    for copy in copies:
        copy.pos, copy.cell = copy.pos.to(dtype), copy.cell.to(dtype)
    return Batch.from_data_list(copies)


def systems_of(*structures: Atoms) -> Systems:
    """Return structures as a search reads them, wrapped."""
    return Systems(
        pos=np.concatenate([atoms.positions for atoms in structures]),
        cell=np.stack([atoms.cell.array for atoms in structures]),
        natoms=np.array([len(atoms) for atoms in structures]),
        periodic=np.stack([atoms.pbc for atoms in structures]),
        moved=np.zeros((sum(map(len, structures)), 3), dtype=np.int64),
    ).wrapped()


def _apart(num_atoms: int, generator: torch.Generator) -> Tensor:
    """Return random fractional coordinates (A, 3), no two nearer than 0.15."""
    places: list[Tensor] = []
    while len(places) < num_atoms:
        place = torch.rand(3, generator=generator, dtype=torch.float64)
        if all((place - other).norm() > 0.15 for other in places):
            places.append(place)
    return torch.stack(places)


def _structure(pos: Tensor, cell: Tensor, pbc: Tensor, generator: torch.Generator) -> Data:
    return Data(
        pos=pos,
        cell=cell[None],
        atomic_numbers=torch.randint(1, 80, (len(pos),), generator=generator),
        natoms=torch.tensor([len(pos)]),
        pbc=pbc,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
