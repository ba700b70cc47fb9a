"""A trained SCN as a calculator of ASE, for checkpoints of both lines of fairchem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import wrap_positions
from ase.optimize import LBFGS
from ase.optimize.optimize import Optimizer
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from ocp_scn.checkpoint import read_trained
from ocp_scn.errors import InputError
from ocp_scn.fairchem.batches import BatchSCN
from ocp_scn.fairchem.structures import near_origin, place_fault
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.predictions import batches
from ocp_scn.trained import Trained, copy_weights

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class SCNCalculator(Calculator):
    """Energies, forces and stresses of a trained SCN.

        from ocp_scn import SCNCalculator

        atoms.calc = SCNCalculator("checkpoint.pt")
        atoms.get_potential_energy()

    Energies are in eV, and include the element references that the model was trained with. Forces are in
    eV/Å. Models whose forces are derivatives of the energy also give the stress, in eV/Å³. Predictions use
    the averaged weights if the checkpoint has them.

    Args:
        checkpoint: a checkpoint of fairchem-core 1 (also a published one), or an inference checkpoint of
            fairchem-core 2; fairchem need not be installed.
        device: ``cpu``, ``cuda`` or ``cuda:1``; if None, the GPU if there is one.
        dtype: ``float32``, in which models are trained, or ``float64``, for example for vibrations.
        strict_elements: refuse elements that were not in the training data, instead of a warning.

    Raises:
        InputError: for a file that is no checkpoint of this model, or another ``dtype`` or device.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012  # ASE's, of every calculator

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        strict_elements: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in _DTYPES:
            raise InputError(f"dtype={dtype!r}; expected {' or '.join(_DTYPES)}")
        self.device, self.dtype = _device(device), _DTYPES[dtype]
        _, self.trained = read_trained(Path(checkpoint))
        self.network = _network(self.trained, strict_elements).to(self.device, self.dtype)
        config = self.network.config
        self.implemented_properties = ["energy", "free_energy"]
        if config.regress_forces:
            self.implemented_properties.append("forces")
            if not config.direct_forces:
                self.implemented_properties.append("stress")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute everything that the model predicts for ``atoms``; ASE calls this.

        Raises:
            InputError: for structures that the model cannot compute.
            PropertyNotImplementedError: for the stress of a structure without a volume.
        """
        super().calculate(atoms, properties, system_changes)
        if "stress" in properties:
            _check_volume(self.atoms)
        (self.results,) = self.predict([self.atoms])

    @torch.inference_mode(False)
    def predict(self, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Return the results of several structures, computed as one batch.

        Args:
            structures: of ASE; their own calculators are not used.

        Returns:
            For each structure ``energy`` and ``free_energy``, eV; ``forces`` (n, 3), eV/Å, if the model has
            them; ``stress`` (6,), eV/Å³ in Voigt's order, if it is defined.

        Raises:
            InputError: for structures that the model cannot compute.
        """
        found = self.network.predict(
            batch_of(structures, self.device, self.dtype),
            stress="stress" in self.implemented_properties,
            create_graph=False,
        )
        return self._results(structures, {name: value.detach().cpu() for name, value in found.items()})

    def relax_many(
        self,
        structures: Sequence[Atoms],
        *,
        fmax: float = 0.05,
        steps: int = 200,
        max_atoms: int = 1000,
        optimizer: type[Optimizer] = LBFGS,
    ) -> list[bool]:
        """Relax structures in place; return whether each has converged.

        Each structure has its own ASE optimizer, which respects its constraints. In each step the model
        computes all structures that have not converged yet in batches. Afterwards each structure's calculator
        has its last results.

        Args:
            structures: of ASE.
            fmax: largest force on an atom at which a structure has converged, eV/Å.
            steps: largest number of steps.
            max_atoms: of a batch; a larger structure is a batch by itself.
            optimizer: class of ASE whose ``step`` needs the forces of one structure, such as ``FIRE``.

        Raises:
            InputError: for structures that the model cannot compute.
        """
        for atoms in structures:
            atoms.calc = Calculator()
        optimizers = [optimizer(atoms, logfile=None) for atoms in structures]
        left = list(range(len(structures)))
        for step in range(steps + 1):
            for batch in batches(left, lambda k: len(structures[k]), max_atoms):
                chosen = [structures[k] for k in batch]
                for atoms, results in zip(chosen, self.predict(chosen), strict=True):
                    atoms.calc = SinglePointCalculator(atoms, **results)
            left = [
                k for k in left if np.linalg.norm(structures[k].get_forces(), axis=1).max(initial=0) > fmax
            ]
            if not left or step == steps:
                break
            for k in left:
                optimizers[k].step()
        return [k not in left for k in range(len(structures))]

    def _results(self, structures: Sequence[Atoms], found: dict[str, Tensor]) -> list[dict[str, Any]]:
        mean, scale = self.trained.normalizers.get("energy", (0.0, 1.0))
        energies = found["energy"].double().numpy() * scale + mean  # references are large: in float64
        results: list[dict[str, Any]] = []
        for atoms, energy in zip(structures, energies, strict=True):
            total = float(energy + _reference_energy(self.trained, atoms.numbers))
            results.append({"energy": total, "free_energy": total})
        if "forces" in found:
            mean, rmsd = self.trained.normalizers.get("forces", (0.0, 1.0))
            forces = found["forces"].numpy() * rmsd + mean
            sizes = np.cumsum([len(atoms) for atoms in structures])[:-1]
            for result, of_one in zip(results, np.split(forces, sizes), strict=True):
                result["forces"] = of_one
        if "stress" in found:
            for atoms, result, stress in zip(structures, results, found["stress"].numpy(), strict=True):
                if has_volume(atoms):
                    result["stress"] = full_3x3_to_voigt_6_stress(stress * scale)
        return results


def largest_force(atoms: Atoms) -> float:
    """Return the largest force on an atom that constraints leave, eV/Å."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0))


def has_volume(atoms: Atoms) -> bool:
    """Tell whether a stress is defined: the cell has three vectors, and is periodic along one at least."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _check_volume(atoms: Atoms) -> None:
    if not has_volume(atoms):
        raise PropertyNotImplementedError(
            f"{atoms.symbols} has no stress: its pbc is {atoms.pbc.tolist()} and its cell has "
            f"{atoms.cell.rank} vectors; a stress needs a periodic direction and a volume"
        )


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name!r}: {str(error).splitlines()[0]}") from error
    return device


def _network(trained: Trained, strict_elements: bool) -> BatchSCN:
    network = BatchSCN(trained.config)
    copy_weights(network, trained.averaged)
    if trained.elements is not None:
        network.known = KnownElements(trained.elements, strict=strict_elements)
    return network.requires_grad_(False).eval()


def batch_of(structures: Sequence[Atoms], device: torch.device, dtype: torch.dtype) -> Any:
    """Return structures as the network reads them.

    Raises:
        InputError: for positions and cells that it cannot compute.
    """
    for k, atoms in enumerate(structures):
        fault = place_fault(atoms)
        if fault is not None:
            raise InputError(f"{'' if len(structures) == 1 else f'structure {k}: '}{fault}")
    natoms = torch.tensor([len(atoms) for atoms in structures])
    arrays = {
        "pos": np.concatenate([_places(atoms) for atoms in structures]),
        "cell": np.stack([atoms.cell.complete().array for atoms in structures]),
    }
    tensors = dict(
        **{name: torch.tensor(value, dtype=dtype) for name, value in arrays.items()},
        atomic_numbers=torch.tensor(np.concatenate([atoms.numbers for atoms in structures])),
        pbc=torch.tensor(np.stack([atoms.pbc for atoms in structures])),
        natoms=natoms,
        batch=torch.arange(len(structures)).repeat_interleave(natoms),
    )
    return _Batch({name: value.to(device) for name, value in tensors.items()})


def _places(atoms: Atoms) -> np.ndarray:
    """Return positions (n, 3), Å, near the origin and inside the cell, where float32 has digits for them."""
    near = near_origin(atoms)
    return wrap_positions(near.positions, near.cell, near.pbc, eps=1e-6)


class _Batch(dict[str, Tensor]):
    """What the network reads of a batch, by attribute or by name."""

    __getattr__ = dict.__getitem__


def _reference_energy(trained: Trained, numbers: np.ndarray) -> float:
    if trained.references is None:
        return 0.0
    if numbers.max(initial=0) >= len(trained.references):
        last = len(trained.references) - 1
        raise InputError(f"atomic number {numbers.max()}; the references of the checkpoint end at {last}")
    return float(np.asarray(trained.references)[numbers].sum())
