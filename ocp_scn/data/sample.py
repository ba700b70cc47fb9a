"""Make a small data set in the style of OC20 that needs no download.

Adsorbates of H, C, N and O on fcc metal slabs, relaxed with ASE's effective medium theory (EMT). EMT is
rough for light elements, so the numbers teach no chemistry; but the files have the layout, units and
conventions of OC20: an energy is E(slab + adsorbate) - E(relaxed clean slab) - the sum over the adsorbate's
atoms of a gas reference, in eV; sub-surface atoms (tag 0) are fixed; forces are those of all atoms.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc110, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.optimize import BFGS
from tqdm import tqdm

from ocp_scn.data.folder import new_folder
from ocp_scn.data.formats import add_format_argument, writer
from ocp_scn.errors import InputError
from ocp_scn.options import integer

METALS = ("Cu", "Ni", "Pd", "Pt", "Ag", "Au")
FACETS = {  # and the sites on them
    "111": (fcc111, ("ontop", "bridge", "fcc", "hcp")),
    "100": (fcc100, ("ontop", "bridge", "hollow")),
    "110": (fcc110, ("ontop", "longbridge", "shortbridge", "hollow")),
}
SIZES = ((2, 2, 2), (2, 2, 3), (3, 2, 3), (3, 3, 3), (3, 3, 4))  # atoms along the cell vectors, layers
ADSORBATES = ("H", "C", "N", "O", "CO", "NO", "OH", "CH", "NH")  # the first atom points to the surface
BONDS = {"CO": 1.06, "NO": 1.06, "OH": 1.03, "CH": 1.07, "NH": 1.06, "CN": 0.98, "NN": 1.0}  # in EMT, Å
OOD_METALS, OOD_ADSORBATES = ("Al",), ("CN", "NN")
OOD_SPLITS = {  # out of the training set's domain: metals and adsorbates
    "test_ood_ads": (METALS, OOD_ADSORBATES),
    "test_ood_cat": (OOD_METALS, ADSORBATES),
    "test_ood_both": (OOD_METALS, OOD_ADSORBATES),
}
# Energy of the free atoms in EMT, eV. OC20 refers to molecules; free atoms give energies the same wide spread
# (2 eV), where EMT's molecules, bound about as strongly as adsorbates, would leave a quarter of it.
REFERENCES = {"H": 3.21, "C": 3.5, "N": 5.1, "O": 4.6}
FMAX, MAX_STEPS = 0.05, 100  # of a relaxation: eV/Å on free atoms, steps
MAX_FRAMES, RATTLED_FRAMES = 10, 4  # of a relaxation, and of its relaxed structure
RATTLED_FID = 1000  # frame ids below this are steps of the relaxation
MAX_ENERGY, MAX_FORCE, MAX_ATTEMPTS = 20.0, 10.0, 20  # eV, eV/Å; a system with more is made anew, so often
MIN_SYSTEMS = 10
TASKS, SPLITS = ("s2ef", "is2re"), ("train", "val", "test")
DESCRIPTION = "Make a small OC20-style data set without a download: EMT relaxations of adsorbates on slabs."
EPILOG = "example:\n  ocp-scn data sample datasets/sample --systems 120 --seed 0 --ood-systems 10"


class Frame(NamedTuple):
    """One structure of a system: positions (n, 3) Å, adsorption energy eV, forces (n, 3) eV/Å."""

    fid: int
    positions: np.ndarray
    energy: float
    forces: np.ndarray


class System(NamedTuple):
    """A relaxed system: its initial atoms, the frames for S2EF (initial one first), the relaxed frame."""

    atoms: Atoms
    frames: list[Frame]
    relaxed: Frame


class Combination(NamedTuple):
    """What is adsorbed on what."""

    metal: str
    adsorbate: str
    facet: str
    size: tuple[int, int, int]


def combinations(
    systems: int, seed: int, metals: Sequence[str] = METALS, adsorbates: Sequence[str] = ADSORBATES
) -> list[Combination]:
    """Return a combination for each system; pairs of metal and adsorbate are equally frequent.

    None comes twice before all were used, so held-out systems are new combinations.
    """
    rng = np.random.default_rng([seed, 0])
    pairs, slabs = list(product(metals, adsorbates)), list(product(FACETS, SIZES))
    rng.shuffle(pairs)
    orders = [rng.permutation(len(slabs)) for _ in pairs]
    turns = [divmod(index, len(pairs)) for index in range(systems)]
    return [Combination(*pairs[k], *slabs[orders[k][turn % len(slabs)]]) for turn, k in turns]


def split_systems(systems: int, seed: int) -> list[str]:
    """Return the split of each system: a tenth each is val and test."""
    held = round(systems / 10)
    names = ["val"] * held + ["test"] * held + ["train"] * (systems - 2 * held)
    np.random.default_rng([seed, 1]).shuffle(names)
    return names


def plan(systems: int, seed: int, ood_systems: int = 0) -> list[tuple[Combination, str]]:
    """Return what each system is and its split; those out of the training set's domain come last."""
    planned = list(zip(combinations(systems, seed), split_systems(systems, seed), strict=True))
    for split, (metals, adsorbates) in OOD_SPLITS.items():
        planned += [(chosen, split) for chosen in combinations(ood_systems, seed, metals, adsorbates)]
    return planned


def build_slab(combination: Combination) -> Atoms:
    """Return an ideal slab, tags 1 (top layer) and 0 (the others, fixed), periodic with vacuum."""
    slab = FACETS[combination.facet][0](combination.metal, size=combination.size, vacuum=8.0)
    slab.set_tags((slab.get_tags() == 1).astype(int))
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))
    slab.pbc = True
    return slab


@cache
def reference_energy(combination: Combination) -> float:
    """Return what is subtracted from EMT's energy of a system: relaxed clean slab and gas references, eV."""
    slab = build_slab(combination)
    slab.calc = EMT()
    BFGS(slab, logfile=None).run(fmax=FMAX / 5, steps=MAX_STEPS)
    return float(slab.get_potential_energy()) + sum(REFERENCES[symbol] for symbol in combination.adsorbate)


def build_initial(combination: Combination, rng: np.random.Generator) -> Atoms:
    """Return a rattled slab with the adsorbate near a random site, tilted and off its place."""
    slab, name = build_slab(combination), combination.adsorbate
    heights = np.arange(len(name)) * BONDS.get(name, 0.0) * rng.uniform(0.95, 1.05)
    adsorbate = Atoms(name, positions=[(0, 0, height) for height in heights], tags=[2] * len(name))
    adsorbate.rotate(rng.uniform(0, 40), "x")
    adsorbate.rotate(rng.uniform(0, 360), "z")
    site = str(rng.choice(FACETS[combination.facet][1]))
    add_adsorbate(slab, adsorbate, rng.uniform(1.3, 1.8), position=site, offset=rng.integers(0, 2, 2))
    slab.positions[slab.get_tags() == 2, :2] += rng.normal(scale=0.15, size=2)
    return rattled(slab, 0.06, rng)


def rattled(atoms: Atoms, scale: float, rng: np.random.Generator) -> Atoms:
    """Return a copy with normal displacements of ``scale`` Å on the free atoms, and EMT as calculator."""
    copy = atoms.copy()
    copy.calc = EMT()
    copy.positions += rng.normal(scale=scale, size=(len(copy), 3)) * (copy.get_tags() > 0)[:, None]
    return copy


def evaluate(atoms: Atoms, reference: float, fid: int) -> Frame:
    """Return the frame of a structure; its forces are not zeroed on fixed atoms."""
    energy = float(atoms.get_potential_energy()) - reference
    return Frame(fid, atoms.get_positions(), energy, atoms.get_forces(apply_constraint=False))


def relax(atoms: Atoms, reference: float) -> list[Frame] | None:
    """Relax a structure in place; return the frame of each step, or None without convergence."""
    search = BFGS(atoms, logfile=None)
    frames = [evaluate(atoms, reference, step) for step, _ in enumerate(search.irun(FMAX, MAX_STEPS))]
    return frames if search.converged() else None


def intact(atoms: Atoms, reach: float) -> bool:
    """Tell whether no atoms overlap and the adsorbate is bound: bonds are below ``reach`` sums of radii."""
    tags, radii = atoms.get_tags(), covalent_radii[atoms.numbers]
    ratio = atoms.get_all_distances(mic=True) / (radii[:, None] + radii[None, :])
    np.fill_diagonal(ratio, np.inf)
    adsorbate = tags == 2
    bound = ratio[adsorbate].min(axis=1) < reach  # a dissociated adsorbate is fine
    touching = ratio[np.ix_(adsorbate, ~adsorbate)].min() < reach
    above = atoms.positions[adsorbate, 2].min() > atoms.positions[tags == 1, 2].mean() - 0.5
    return bool(bound.all() and touching and above and ratio.min() > 0.7)


def attempt_system(combination: Combination, rng: np.random.Generator) -> System | None:
    """Build, relax and rattle one system; None if the relaxation went wrong."""
    atoms = build_initial(combination, rng)
    start, reference = atoms.copy(), reference_energy(combination)
    trajectory = relax(atoms, reference) if intact(atoms, 1.9) else None
    if trajectory is None or not intact(atoms, 1.6):
        return None
    copies = [rattled(atoms, rng.uniform(0.03, 0.12), rng) for _ in range(RATTLED_FRAMES)]
    spread = np.linspace(0, 1, MAX_FRAMES) ** 1.5  # denser at the start, where forces change
    steps = np.unique((spread * (len(trajectory) - 1)).round().astype(int))
    frames = [trajectory[step] for step in steps]
    frames += [evaluate(copy, reference, RATTLED_FID + number) for number, copy in enumerate(copies)]
    if any(abs(frame.energy) > MAX_ENERGY or np.abs(frame.forces).max() > MAX_FORCE for frame in frames):
        return None
    return System(start, frames, trajectory[-1])


def make_system(combination: Combination, seed: int, sid: int) -> System:
    """Return a system, trying again with other random numbers where a relaxation went wrong."""
    for attempt in range(MAX_ATTEMPTS):
        system = attempt_system(combination, np.random.default_rng([seed, 2, sid, attempt]))
        if system is not None:
            return system
    raise RuntimeError(f"no sensible relaxation of {combination} in {MAX_ATTEMPTS} attempts")


def s2ef_samples(system: System, sid: int) -> Iterator[tuple[Atoms, dict[str, Any]]]:
    """Yield each frame's structure, and its energy (eV) and forces (n, 3), eV/Å."""
    for frame in system.frames:
        atoms = system.atoms.copy()
        atoms.positions = frame.positions  # not set_positions, which would obey the constraints
        yield atoms, {"energy": frame.energy, "forces": frame.forces, "sid": sid, "fid": frame.fid}


def is2re_sample(system: System, sid: int) -> tuple[Atoms, dict[str, Any]]:
    """Return the initial structure, and the energy (eV) and positions (n, 3) Å of the relaxed one."""
    initial, relaxed = system.frames[0], system.relaxed
    return system.atoms, {
        "sid": sid,
        "y_init": initial.energy,
        "y_relaxed": relaxed.energy,
        "energy_relaxed": relaxed.energy,  # the name that fairchem's relaxations read
        "pos_relaxed": relaxed.positions,
    }


def make_sample(
    target: Path,
    *,
    systems: int = 120,
    seed: int = 0,
    ood_systems: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    kind: str = "lmdb",
) -> dict[str, int]:
    """Write ``s2ef/{train,val,test}`` and ``is2re/{train,val,test}``; return the number of samples of each.

    Args:
        target: the folder to make; nothing is left there if this is interrupted.
        systems: number of relaxed systems; an S2EF system has about 14 frames.
        seed: the same seed gives the same structures; a system's ``sid`` is its number.
        ood_systems: so many more in each of ``test_ood_ads`` (adsorbates that no other split has),
            ``test_ood_cat`` (metals) and ``test_ood_both``; the other splits stay what they are.
        overwrite: replace an existing folder.
        progress: show a bar, on a terminal.
        kind: of the files, see `ocp_scn.data.formats.writer`.

    Raises:
        InputError: for too few systems, a negative number, or a target that exists.
    """
    if systems < MIN_SYSTEMS or seed < 0 or ood_systems < 0:
        raise InputError(
            f"got systems {systems}, seed {seed}, ood_systems {ood_systems}; "
            f"expected at least {MIN_SYSTEMS}, 0 and 0"
        )
    planned = plan(systems, seed, ood_systems)
    splits = [*SPLITS, *(OOD_SPLITS if ood_systems else ())]
    with new_folder(target, overwrite=overwrite) as work, ExitStack() as stack:
        make = writer(kind)
        folders = [f"{task}/{split}" for task in TASKS for split in splits]
        writers = {name: stack.enter_context(make(work / name)) for name in folders}
        bar = tqdm(planned, desc="relaxing", unit="system", disable=None if progress else True)
        for sid, (combination, split) in enumerate(bar):
            system = make_system(combination, seed, sid)
            for atoms, properties in s2ef_samples(system, sid):
                writers[f"s2ef/{split}"].write(atoms, **properties)
            atoms, properties = is2re_sample(system, sid)
            writers[f"is2re/{split}"].write(atoms, **properties)
    return {name: len(made.natoms) for name, made in writers.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to make")
    parser.add_argument(
        "--systems", type=integer(MIN_SYSTEMS), default=120, help="number of systems (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=integer(0), default=0, help="seed of the structures (default: %(default)s)"
    )
    parser.add_argument(
        "--ood-systems",
        type=integer(0),
        default=0,
        help="number of systems in each of three test splits with other metals and adsorbates (default: 0)",
    )
    add_format_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")


def run(args: argparse.Namespace) -> None:
    """Make the data set and print where it is and how many samples each folder has."""
    counts = make_sample(
        args.target,
        systems=args.systems,
        seed=args.seed,
        ood_systems=args.ood_systems,
        overwrite=args.overwrite,
        kind=args.format,
    )
    print(f"wrote {args.target}", *(f"  {name:<19} {n:>6} samples" for name, n in counts.items()), sep="\n")
