"""The calculator of ASE: what it returns, of which files, and what it refuses; in either line of fairchem."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.optimize import LBFGS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ocp_scn
from ocp_scn import SCN, InputError, SCNCalculator, SCNConfig
from ocp_scn.predictions import batches
from ocp_scn.trained import Trained, to_fairchem1
from tests import HANG
from tests.requirements import wanted
from tests.settings import SETTINGS as SMALL
from tests.weights import strengthen

SETTINGS = {**SMALL, "otf_graph": True}
# A continuous energy surface, where derivatives can be compared with differences.
SMOOTH = {"smooth": True, "max_num_neighbors": -1, "num_resolutions": 1, "mmax": 0, "direct_forces": False}
NORMALIZERS = {"energy": (-6.0, 2.25), "forces": (0.0, 0.5)}
DERIVED = {"energy": (-6.0, 2.25), "forces": (0.0, 2.25)}
REFERENCES = [-0.5 * number for number in range(90)]


def trained(**changes: Any) -> Trained:
    """Return a network with weights by which neighbours matter; keywords are settings."""
    settings = {**SETTINGS, **changes}
    torch.manual_seed(0)
    model = strengthen(SCN(SCNConfig.from_settings(settings)))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    normalizers = NORMALIZERS if settings.get("direct_forces", True) else DERIVED
    return Trained(settings, weights, weights, normalizers)


def calculator(tmp_path: Path, network: Trained | None = None, **options: Any) -> SCNCalculator:
    path = tmp_path / "checkpoint.pt"
    torch.save(to_fairchem1(network or trained()), path)
    return SCNCalculator(path, device="cpu", **options)


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=7.0, periodic=True)
    add_adsorbate(atoms, "O", 1.4, "fcc")
    atoms.rattle(0.05, seed=1)
    return atoms


def with_calculator(atoms: Atoms, calc: SCNCalculator) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calc
    return atoms


def test_the_units_are_those_of_the_data(tmp_path: Path) -> None:
    """Energies and forces are the network's, scaled by the normalizers; references are added by element."""
    one = trained()
    scaled = with_calculator(slab(), calculator(tmp_path, one))
    plain = with_calculator(slab(), calculator(tmp_path, replace(one, normalizers={})))
    assert scaled.get_potential_energy() == pytest.approx(2.25 * plain.get_potential_energy() - 6, rel=1e-6)
    np.testing.assert_allclose(scaled.get_forces(), 0.5 * plain.get_forces(), rtol=1e-6)
    assert np.abs(plain.get_forces()).max() > 1e-2
    total = with_calculator(slab(), calculator(tmp_path, replace(one, references=REFERENCES)))
    added = total.get_potential_energy() - scaled.get_potential_energy()
    assert added == pytest.approx(-0.5 * slab().numbers.sum(), abs=1e-9)
    assert total.get_potential_energy(force_consistent=True) == total.get_potential_energy()


def test_forces_and_stress_are_derivatives(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms = with_calculator(atoms, calculator(tmp_path, trained(**SMOOTH), dtype="float64"))
    forces = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)
    assert np.abs(atoms.get_stress()).max() > 1e-3


def test_float64_agrees_with_float32(tmp_path: Path) -> None:
    results = [
        with_calculator(slab(), calculator(tmp_path, dtype=dtype)).get_forces()
        for dtype in ("float32", "float64")
    ]
    np.testing.assert_allclose(*results, atol=1e-5)
    assert results[1].dtype == np.float64


@pytest.mark.parametrize("change", ["positions", "numbers", "cell", "pbc"])
def test_results_follow_the_structure(tmp_path: Path, change: str) -> None:
    """What was computed is used again until the structure changes."""
    calc, atoms = calculator(tmp_path), slab()
    atoms.calc = calc
    before, results = atoms.get_potential_energy(), calc.results
    atoms.get_forces()
    atoms.info["array"] = np.arange(3)  # is none of the structure's business
    atoms.set_initial_charges(np.ones(len(atoms)))
    assert atoms.get_potential_energy() == before
    assert calc.results is results
    if change == "positions":
        atoms.positions[0] += 0.1
    elif change == "numbers":
        atoms.numbers[0] = 8
    elif change == "cell":
        atoms.set_cell(1.01 * atoms.cell, scale_atoms=False)
    else:
        atoms.pbc = False
    after = atoms.get_potential_energy()
    assert after != before
    assert after == with_calculator(atoms, calculator(tmp_path)).get_potential_energy()


def test_arrays_in_info_do_no_harm(tmp_path: Path) -> None:
    calc = calculator(tmp_path)
    for k in range(3):
        atoms = slab()
        atoms.info.update(sid=k, array=np.arange(k + 1), nested={"a": [1, 2]})
        atoms.calc = calc
        assert np.isfinite(atoms.get_potential_energy())


def test_a_batch_has_the_results_of_its_structures(tmp_path: Path) -> None:
    calc = calculator(tmp_path, trained(**SMOOTH), dtype="float64")
    structures = [slab(), bulk("Pd", cubic=True), molecule("H2O"), Atoms("O", cell=[9, 9, 9], pbc=True)]
    for atoms, found in zip(structures, calc.predict(structures), strict=True):
        alone = with_calculator(atoms, calc)
        assert found["energy"] == pytest.approx(alone.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(found["forces"], alone.get_forces(), atol=1e-9)
        assert ("stress" in found) == bool(atoms.pbc.all())


@pytest.mark.parametrize("atoms", [slab(), bulk("Cu", cubic=True), molecule("CH3OH")], ids=len)
def test_places_far_from_the_origin(tmp_path: Path, atoms: Atoms) -> None:
    """A structure is moved near the origin before it is rounded to float32."""
    atoms.rattle(0.05, seed=2)  # no equal distances under the cap
    calc, far = calculator(tmp_path), atoms.copy()
    far.positions += [1e7, -3e6, 2e7]
    far, atoms = with_calculator(far, calc), with_calculator(atoms, calc)
    assert far.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
    np.testing.assert_allclose(far.get_forces(), atoms.get_forces(), atol=2e-5)


def test_many_relaxations_are_those_of_each_structure(tmp_path: Path) -> None:
    """Batches change nothing but the time; constraints hold, and steps are counted for each."""
    calc = calculator(tmp_path, trained(**SMOOTH), dtype="float64")
    structures = [bulk("Cu", cubic=True), slab(), bulk("Pd", cubic=True), molecule("H2O")]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.02, seed=k)
    structures[1].set_constraint(FixAtoms(range(8)))
    alone = [with_calculator(atoms, calc) for atoms in structures]
    together = [atoms.copy() for atoms in structures]
    converged = calc.relax_many(together, fmax=0.1, steps=4, max_atoms=14)
    assert converged == [LBFGS(atoms, logfile=None).run(fmax=0.1, steps=4) for atoms in alone]
    for one, other, before in zip(alone, together, structures, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
        assert other.get_potential_energy() == pytest.approx(one.get_potential_energy(), abs=1e-8)
        assert np.abs(other.positions - before.positions).max() > 1e-3
    assert (together[1].positions[:8] == structures[1].positions[:8]).all()


def test_batches_are_filled() -> None:
    sizes = [5, 5, 9, 12, 1]
    assert list(batches([0, 1, 3, 4], sizes.__getitem__, 10)) == [[0, 1], [3], [4]]


def test_what_the_model_has_not_is_refused_by_name(tmp_path: Path) -> None:
    direct = with_calculator(slab(), calculator(tmp_path))
    with pytest.raises(PropertyNotImplementedError):
        direct.get_stress()
    molecular = with_calculator(molecule("H2O"), calculator(tmp_path, trained(**SMOOTH)))
    with pytest.raises(PropertyNotImplementedError, match=r"OH2 has no stress: .*0 vectors"):
        molecular.get_stress()
    assert np.isfinite(molecular.get_forces()).all()
    energy_only = with_calculator(slab(), calculator(tmp_path, trained(regress_forces=False)))
    with pytest.raises(PropertyNotImplementedError):
        energy_only.get_forces()


def test_faults_are_named(tmp_path: Path) -> None:
    calc = calculator(tmp_path)
    with pytest.raises(InputError, match="periodic along c without a cell vector"):
        with_calculator(Atoms("O", cell=[5, 5, 0], pbc=True), calc).get_potential_energy()
    with pytest.raises(InputError, match=r"structure 1: periodic along a and b and c"):
        calc.predict([slab(), Atoms("O", pbc=True)])
    with pytest.raises(InputError, match="atomic number 95"):
        with_calculator(Atoms("Am"), calc).get_potential_energy()
    with pytest.raises(InputError, match="dtype='float16'; expected float32 or float64"):
        calculator(tmp_path, dtype="float16")
    with pytest.raises(InputError, match="device='nonsense'"):
        SCNCalculator(tmp_path / "checkpoint.pt", device="nonsense")
    with pytest.raises(InputError, match=r"missing\.pt does not exist"):
        SCNCalculator(tmp_path / "missing.pt")


def test_untrained_elements_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = replace(trained(), elements=[8, 29])
    atoms = with_calculator(bulk("Fe", cubic=True), calculator(tmp_path, known))
    with caplog.at_level(logging.WARNING):
        atoms.get_potential_energy()
    assert "trained on O, Cu, not on Fe" in caplog.text
    atoms.calc = calculator(tmp_path, known, strict_elements=True)
    with pytest.raises(InputError, match="trained on O, Cu, not on Fe"):
        atoms.get_potential_energy()


def test_it_is_quiet(tmp_path: Path) -> None:
    """Nothing is printed, and inference mode or torch's default precision of a program change nothing."""
    calculator(tmp_path)
    program = f"""
import torch
from ase.build import bulk
from ocp_scn import SCNCalculator
energies = []
for precision, grad in ((torch.float32, torch.enable_grad), (torch.float64, torch.inference_mode)):
    torch.set_default_dtype(precision)
    atoms = bulk("Cu", cubic=True)
    with grad():
        atoms.calc = SCNCalculator({str(tmp_path / "checkpoint.pt")!r}, device="cpu")
        energies.append(atoms.get_potential_energy())
assert energies[0] == energies[1], energies
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=HANG
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def others(*extras: str) -> list[str]:
    """Return the installed modules that nothing of the package's requirements brings."""
    needed: set[str] = set()
    queue = wanted(*extras)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in needed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        needed.add(name)
        with suppress(metadata.PackageNotFoundError):  # what a build of torch without CUDA does without
            queue += map(Requirement, metadata.requires(name) or [])
    owners = metadata.packages_distributions()
    return [
        module
        for module in owners
        if module != "ocp_scn" and not needed & {canonicalize_name(owner) for owner in owners[module]}
    ]


def test_the_extra_brings_all_that_it_needs(tmp_path) -> None:
    """In an environment with more, what the extra does not bring is hidden."""
    path = tmp_path / "checkpoint.pt"
    torch.save(to_fairchem1(trained()), path)
    program = f"""
import importlib.metadata as metadata, sys
sys.modules.update(dict.fromkeys({others("calculator")}))
version = metadata.version
def hidden(name):
    if name == "fairchem-core":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = hidden
from ase.build import bulk
from ocp_scn import SCNCalculator
atoms = bulk("Cu", cubic=True)
atoms.calc = SCNCalculator({str(path)!r}, device="cpu")
print(atoms.get_potential_energy())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SCNCalculator(path, device="cpu")
    assert float(done.stdout) == pytest.approx(atoms.get_potential_energy(), rel=1e-5)


def test_unknown_names_are_missing() -> None:
    assert ocp_scn.SCNCalculator is SCNCalculator
    with pytest.raises(AttributeError, match="no attribute 'Calculator'"):
        _ = ocp_scn.Calculator
