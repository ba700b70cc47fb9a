"""What is drawn: a structure of a file, or an example that needs none."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from torch import nn

from ocp_scn.config import SCNConfig
from ocp_scn.data.frames import read_frames
from ocp_scn.errors import InputError
from ocp_scn.model import SCN

_SEED, _GAIN = 12, 2.0


class Example(NamedTuple):
    """A structure, and what of it is worth drawing.

    Attributes:
        atoms: CO on a slab of copper.
        drawn: its adsorbate and surface.
        edge: source and target of an edge from the adsorbate to the surface.
    """

    atoms: Atoms
    drawn: list[int]
    edge: tuple[int, int]


def example() -> Example:
    """Return the structure that is drawn where none is given."""
    atoms = fcc111("Cu", (3, 3, 2), vacuum=8.0, periodic=True)
    add_adsorbate(atoms, molecule("CO"), 1.35, "fcc", mol_index=1, offset=(1, 1))
    carbon, surface = len(atoms) - 1, [atom.index for atom in atoms if atom.tag <= 1]
    return Example(atoms, surface, (carbon, 14))


def random_network() -> SCN:
    """Return a small network of random weights, always the same ones.

    Those of its layers are twice the ones that a training begins with: functions then depend on the direction
    as clearly as those of a trained network.
    """
    config = SCNConfig(
        lmax=6,
        num_interactions=3,
        sphere_channels=16,
        sphere_channels_reduce=16,
        hidden_channels=32,
        num_basis_functions=16,
        num_resolutions=1,
        max_num_neighbors=-1,
        cutoff=6.0,
        distance_resolution=0.1,
        otf_graph=True,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        network = SCN(config).double().eval()
        for module in network.edge_blocks.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(_GAIN)
    return network


def read_structure(path: Path, index: int) -> Atoms:
    """Return a structure of a file that ASE or ``ocp-scn data convert`` reads.

    Args:
        path: the file.
        index: of the structure, from 0.

    Raises:
        InputError: for another file, or one with fewer structures.
    """
    if not path.exists():
        raise InputError(f"structure {str(path)!r} does not exist")
    frame = next(islice(read_frames([path]), index, None), None)
    if frame is None:
        raise InputError(f"{str(path)!r} has no structure with the index {index}; they count from 0")
    return frame.atoms
