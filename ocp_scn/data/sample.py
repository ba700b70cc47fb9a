"""Make a small data set in the style of OC20 that needs no download.

Adsorbates of H, C, N and O on fcc metal slabs, relaxed with ASE's effective medium theory (EMT). EMT is
rough for light elements, so the numbers teach no chemistry; but the files have the layout, units and
conventions of OC20: an energy is E(slab + adsorbate) - E(relaxed clean slab) - the sum over the adsorbate's
atoms of a gas reference, in eV; sub-surface atoms (tag 0) are fixed; forces are those of all atoms.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc110, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.optimize import BFGS
from torch_geometric.data import Data
from tqdm import tqdm

from ocp_scn.data.lmdb import LmdbWriter, new_folder, to_graph
from ocp_scn.errors import InputError

METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au")
FACETS = {"111": fcc111, "100": fcc100, "110": fcc110}
SITES = {
    "111": ("ontop", "bridge", "fcc", "hcp"),
    "100": ("ontop", "bridge", "hollow"),
    "110": ("ontop", "longbridge", "shortbridge", "hollow"),
}
SIZES = ((2, 2, 2), (2, 2, 3), (3, 2, 3), (3, 3, 3), (3, 3, 4))  # atoms along the cell vectors, layers
# Bond length in EMT, Å; None for an atom. The first atom points to the surface.
ADSORBATES: dict[str, float | None] = {
    "H": None, "C": None, "N": None, "O": None,
    "CO": 1.06, "NO": 1.06, "OH": 1.03, "CH": 1.07, "NH": 1.06,
}  # fmt: skip
# Energy of the free atoms in EMT, eV. OC20 refers to molecules; free atoms give energies the same wide spread
# (2 eV), where EMT's molecules, which bind as strongly as its surfaces, would leave next to none.
REFERENCES = {"H": 3.21, "C": 3.5, "N": 5.1, "O": 4.6}

FMAX = 0.05  # eV/Å on free atoms
MAX_STEPS = 100
MAX_FRAMES = 10  # of a relaxation
RATTLED_FRAMES = 4  # of the relaxed structure
RATTLED_FID = 1000  # frame ids below this are steps of the relaxation
MAX_ENERGY, MAX_FORCE = 20.0, 10.0  # eV and eV/Å
MAX_ATTEMPTS = 20
MIN_SYSTEMS = 10
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Frame:
    """One structure of a system: positions (n, 3) Å, adsorption energy eV, forces (n, 3) eV/Å."""

    fid: int
    positions: np.ndarray
    energy: float
    forces: np.ndarray


@dataclass(frozen=True)
class System:
    """A relaxed system: its atoms, the frames for S2EF, and the relaxation's two ends."""

    atoms: Atoms
    frames: list[Frame]
    initial: Frame
    relaxed: Frame


@dataclass(frozen=True)
class Combination:
    """What is adsorbed on what."""

    metal: str
    facet: str
    size: tuple[int, int, int]
    adsorbate: str


def combinations(systems: int, seed: int) -> list[Combination]:
    """Return a combination for each system, such that pairs of metal and adsorbate are equally frequent.

    A combination comes twice only after all were used, so held-out systems are new combinations.
    """
    rng = np.random.default_rng([seed, 0])
    pairs = list(product(METALS, ADSORBATES))
    slabs = list(product(FACETS, SIZES))
    pair_order = rng.permutation(len(pairs))
    slab_orders = [rng.permutation(len(slabs)) for _ in pairs]
    chosen = []
    for index in range(systems):
        turn, place = divmod(index, len(pairs))
        metal, adsorbate = pairs[pair_order[place]]
        facet, size = slabs[slab_orders[place][turn % len(slabs)]]
        chosen.append(Combination(metal, facet, size, adsorbate))
    return chosen


def split_systems(systems: int, seed: int) -> list[str]:
    """Return the split of each system: a tenth each (at least one) is val and test."""
    held = max(1, round(systems / 10))
    names = np.array(["val"] * held + ["test"] * held + ["train"] * (systems - 2 * held))
    return [str(name) for name in np.random.default_rng([seed, 1]).permutation(names)]


def build_slab(metal: str, facet: str, size: tuple[int, int, int]) -> Atoms:
    """Return an ideal slab, tags 1 (top layer) and 0 (the others, fixed), with vacuum and full periodicity."""
    slab = FACETS[facet](metal, size=size, vacuum=8.0)
    slab.set_tags((slab.get_tags() == 1).astype(int))
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))
    slab.pbc = True
    return slab


@lru_cache(maxsize=None)
def slab_energy(metal: str, facet: str, size: tuple[int, int, int]) -> float:
    """Return the energy of the relaxed clean slab, eV."""
    slab = build_slab(metal, facet, size)
    slab.calc = EMT()
    BFGS(slab, logfile=None).run(fmax=FMAX / 5, steps=MAX_STEPS)
    return float(slab.get_potential_energy())


def reference_energy(combination: Combination) -> float:
    """Return what is subtracted from EMT's energy of a system: clean slab and gas references, eV."""
    gas = sum(REFERENCES[symbol] for symbol in combination.adsorbate)
    return slab_energy(combination.metal, combination.facet, combination.size) + gas


def build_initial(combination: Combination, rng: np.random.Generator) -> Atoms:
    """Return a rattled slab with the adsorbate near a random site, tilted and off its place."""
    slab = build_slab(combination.metal, combination.facet, combination.size)
    bond = ADSORBATES[combination.adsorbate]
    heights = [0.0] if bond is None else [0.0, bond * rng.uniform(0.95, 1.05)]
    adsorbate = Atoms(combination.adsorbate, positions=[(0.0, 0.0, height) for height in heights])
    adsorbate.rotate(rng.uniform(0, 40), "x")
    adsorbate.rotate(rng.uniform(0, 360), "z")
    site = str(rng.choice(SITES[combination.facet]))
    add_adsorbate(slab, adsorbate, rng.uniform(1.3, 1.8), position=site, offset=rng.integers(0, 2, 2))
    slab.positions[-len(adsorbate) :, :2] += rng.normal(scale=0.15, size=2)
    tags = slab.get_tags()
    tags[-len(adsorbate) :] = 2
    slab.set_tags(tags)
    return rattled(slab, 0.06, rng)


def rattled(atoms: Atoms, scale: float, rng: np.random.Generator) -> Atoms:
    """Return a copy with normal displacements of ``scale`` Å on the free atoms."""
    copy = atoms.copy()
    copy.positions[copy.get_tags() > 0] += rng.normal(scale=scale, size=(int((copy.get_tags() > 0).sum()), 3))
    return copy


def evaluate(atoms: Atoms, reference: float, fid: int) -> Frame:
    """Return the frame of a structure with a calculator; forces are not zeroed on fixed atoms."""
    energy = float(atoms.get_potential_energy()) - reference
    return Frame(fid, atoms.get_positions(), energy, atoms.get_forces(apply_constraint=False))


def relax(atoms: Atoms, reference: float) -> list[Frame] | None:
    """Relax a structure in place; return the frame of each step, or None without convergence."""
    atoms.calc = EMT()
    optimizer = BFGS(atoms, logfile=None)
    frames = [
        evaluate(atoms, reference, step)
        for step, _ in enumerate(optimizer.irun(fmax=FMAX, steps=MAX_STEPS))
    ]
    return frames if optimizer.converged() else None


def spread(frames: list[Frame]) -> list[Frame]:
    """Return up to MAX_FRAMES frames, first and last included, denser at the start where forces change."""
    places = np.linspace(0, 1, MAX_FRAMES) ** 1.5 * (len(frames) - 1)
    return [frames[index] for index in np.unique(places.round().astype(int))]


def sensible(frame: Frame) -> bool:
    """Tell whether energy and forces have a size that occurs in relaxations."""
    return bool(abs(frame.energy) <= MAX_ENERGY and np.abs(frame.forces).max() <= MAX_FORCE)


def intact(atoms: Atoms, reach: float) -> bool:
    """Tell whether no two atoms overlap and the adsorbate's atoms, dissociated or not, are on the surface.

    Args:
        reach: the longest bond to the slab, or to the other adsorbate atom, in sums of covalent radii.
    """
    tags, radii = atoms.get_tags(), covalent_radii[atoms.numbers]
    ratio = atoms.get_all_distances(mic=True) / (radii[:, None] + radii[None, :])
    np.fill_diagonal(ratio, np.inf)
    adsorbate = tags == 2
    bound = ratio[adsorbate].min(axis=1) < reach
    touching = ratio[np.ix_(adsorbate, ~adsorbate)].min() < reach
    above = atoms.positions[adsorbate, 2].min() > atoms.positions[tags == 1, 2].mean() - 0.5
    return bool(bound.all() and touching and above and ratio.min() > 0.7)


def attempt_system(combination: Combination, rng: np.random.Generator) -> System | None:
    """Build, relax and rattle one system; None if the relaxation went wrong."""
    atoms = build_initial(combination, rng)
    reference = reference_energy(combination)
    start = atoms.copy()
    trajectory = relax(atoms, reference) if intact(atoms, 1.9) else None
    if trajectory is None or not intact(atoms, 1.4):
        return None
    frames = spread(trajectory)
    for number in range(RATTLED_FRAMES):
        copy = rattled(atoms, rng.uniform(0.03, 0.12), rng)
        copy.calc = EMT()
        frames.append(evaluate(copy, reference, RATTLED_FID + number))
    if not all(map(sensible, frames)):
        return None
    return System(start, frames, trajectory[0], trajectory[-1])


def make_system(combination: Combination, seed: int, sid: int) -> System:
    """Return a system, trying again with other random numbers where a relaxation went wrong."""
    for attempt in range(MAX_ATTEMPTS):
        system = attempt_system(combination, np.random.default_rng([seed, 2, sid, attempt]))
        if system is not None:
            return system
    raise RuntimeError(f"no sensible relaxation of {combination} in {MAX_ATTEMPTS} attempts")


def s2ef_samples(system: System, sid: int) -> Iterator[Data]:
    """Yield each frame with its energy (eV) and forces (n, 3), eV/Å."""
    for frame in system.frames:
        atoms = system.atoms.copy()
        atoms.positions = frame.positions  # not set_positions, which would obey the constraints
        forces = torch.tensor(frame.forces, dtype=torch.float32)
        yield to_graph(atoms, energy=frame.energy, forces=forces, sid=sid, fid=frame.fid)


def is2re_sample(system: System, sid: int) -> Data:
    """Return the initial structure with the energy (eV) and positions (n, 3) Å of the relaxed one."""
    energy = system.relaxed.energy
    data = to_graph(system.atoms, sid=sid, y_init=system.initial.energy, y_relaxed=energy, energy_relaxed=energy)
    moved = torch.tensor(system.relaxed.positions - system.initial.positions, dtype=torch.float32)
    data.pos_relaxed = data.pos + moved  # in the periodic image to which pos was wrapped
    return data
