"""How far the outputs of models change on rotated structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from e3nn.o3 import quaternion_to_matrix
from fairchem.core.datasets import LmdbDataset
from torch import Tensor
from torch_geometric.data import Batch

from benchmarks.equivariance_rows import Row
from ocp_scn import InputError, SCNConfig, SphericalChannelNetwork
from ocp_scn.data.sample import build_initial, combinations, intact
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.fairchem.v1 import loading
from ocp_scn.fairchem.v1.data_checks import check_data_set
from ocp_scn.fairchem.v1.lmdb import to_graph
from ocp_scn.fairchem.v1.loading import check_fit
from ocp_scn.graph import build_graph

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Weights(NamedTuple):
    """The settings and parameters that rows share, and what one unit of the outputs is.

    Attributes:
        name: of the records.
        settings: of the model; rows change them.
        state: state dict, or None for initial weights.
        scale: factor of initial weight matrices.
        units: (eV, eV/Å) of an output 1.
    """

    name: str
    settings: dict[str, Any]
    state: dict[str, Tensor] | None = None
    scale: float = 1.0
    units: tuple[float, float] = (1.0, 1.0)

    @property
    def trained(self) -> bool:
        """Whether they are not initial ones."""
        return self.state is not None


class Outputs(NamedTuple):
    """Energies (B,) in eV and forces of each structure (A_i, 3) in eV/Å, float64."""

    energy: Tensor
    forces: list[Tensor]


def read_structures(folder: Path, number: int) -> list[Any]:
    """Return structures of an LMDB data set, from the first to the last in even steps."""
    check_data_set("--data", {"src": str(folder)}, [])
    data = LmdbDataset({"src": str(folder)})
    found = [data[int(i)] for i in np.unique(np.linspace(0, len(data) - 1, number).round())]
    if len(found) < 2:
        raise InputError(f"--data {folder} has {len(found)} structure; expected at least 2")
    return found


def made_structures(number: int, seed: int) -> list[Any]:
    """Return rattled metal slabs with an adsorbate, as `python -m ocp_scn.data sample` starts from."""
    found = []
    for index, combination in enumerate(combinations(number, seed)):
        rng = np.random.default_rng([seed, index])
        atoms = build_initial(combination, rng)
        while not intact(atoms, 1.9):
            atoms = build_initial(combination, rng)
        found.append(to_graph(atoms))
    return found


def with_edges(structure: Any, config: SCNConfig) -> Any:
    """Return a copy that carries its edges, which stay when the copy is turned."""
    copy = structure.clone()
    source, target, offsets, _ = edges_of(batch_of(copy, torch.eye(3).double(), torch.float64), config)
    copy.edge_index, copy.cell_offsets = torch.stack([source, target]), offsets
    return copy


def edges_of(batch: Batch, config: SCNConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return source (E,), target (E,), cell offsets (E, 3) and whether near (E,) of one structure."""
    graph = build_graph(
        *find_edges(batch, config),
        num_resolutions=config.num_resolutions,
        max_num_neighbors=config.max_num_neighbors,
        keep_tied_neighbors=config.keep_tied_neighbors,
    )
    shift = graph.vec - batch.pos[graph.source] + batch.pos[graph.target]
    offsets = (shift.double() @ torch.linalg.pinv(batch.cell[0].double())).round()
    near = torch.arange(len(shift)) < graph.sizes[0]
    return graph.source, graph.target, offsets, near


def batch_of(structure: Any, rotation: Tensor, dtype: torch.dtype) -> Batch:
    """Return a batch of one structure, turned: atoms and cell."""
    copy = structure.clone()
    copy.pos = (structure.pos.double() @ rotation.T).to(dtype)
    copy.cell = (structure.cell.double() @ rotation.T).to(dtype)
    return Batch.from_data_list([copy])


def random_rotations(number: int, generator: torch.Generator) -> Tensor:
    """Return rotations (number, 3, 3), uniform, float64."""
    quaternions = torch.randn(number, 4, dtype=torch.float64, generator=generator)
    return quaternion_to_matrix(quaternions / quaternions.norm(dim=1, keepdim=True))


def count_changed_graphs(structures: Sequence[Any], rotations: Tensor, config: SCNConfig) -> int:
    """Return how many turned structures have other edges, or other near ones, than before, in float32."""

    def edges(structure: Any, rotation: Tensor) -> set[tuple[float, ...]]:
        source, target, offsets, near = edges_of(batch_of(structure, rotation, torch.float32), config)
        columns = torch.cat([torch.stack([source, target, near], dim=1), offsets], dim=1)
        return set(map(tuple, columns.tolist()))

    before = [edges(structure, torch.eye(3, dtype=torch.float64)) for structure in structures]
    return sum(
        edges(structure, rotation) != known
        for structure, turns, known in zip(structures, rotations, before, strict=True)
        for rotation in turns
    )


def build_model(weights: Weights, row: Row, seed: int) -> SphericalChannelNetwork:
    """Return the model of a row in evaluation mode; ``seed`` is that of initial weights."""
    torch.manual_seed(seed)
    model = SphericalChannelNetwork(**{**weights.settings, **row.changes}).eval()
    if weights.state is None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "fc" in name and parameter.ndim == 2:
                    parameter.mul_(weights.scale)
    else:
        model.load_state_dict(weights.state)
    return model.to(DTYPES[row.dtype])


def read_checkpoint(path: Path) -> Weights:
    """Return the weights of a fairchem checkpoint, with the units of its outputs.

    Raises:
        InputError: if there is none, or it is of another model, or has no forces.
    """
    if not path.is_file():
        raise InputError(f"--checkpoint {path} does not exist")
    try:
        checkpoint = loading.read_checkpoint(path, needed=("state_dict", "config"))
        model, state = checkpoint["config"]["model"], checkpoint["state_dict"]
        # Until 2023 the settings stood apart from the name.
        settings = dict(checkpoint["config"]["model_attributes"] if isinstance(model, str) else model)
    except InputError as error:
        raise InputError(f"--checkpoint {error}") from error
    except KeyError as error:
        raise InputError(f"--checkpoint {path} is not a checkpoint of fairchem: it has no {error}") from error
    settings |= {"otf_graph": True}
    settings.pop("name", None)
    check_fit(f"--checkpoint {path}", state, SphericalChannelNetwork(**settings).state_dict())
    if not SCNConfig(**settings).regress_forces:
        raise InputError(f"--checkpoint {path} predicts no forces (regress_forces=False)")
    normalizers = checkpoint.get("normalizers") or {}
    energy, forces = (float(normalizers.get(key, {}).get("rmsd", 1.0)) for key in ("energy", "forces"))
    state = {name.removeprefix("module.").removeprefix("module."): value for name, value in state.items()}
    return Weights(str(path), settings, state, units=(energy, forces))


def predict(
    model: SphericalChannelNetwork,
    batches: Sequence[Batch],
    units: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Outputs:
    """Return the outputs of each batch of one structure."""
    with torch.no_grad():
        found = [model(batch, generator=generator) for batch in batches]
    energy = torch.cat([out["energy"] for out in found]).double() * units[0]
    return Outputs(energy, [out["forces"].double() * units[1] for out in found])


def scales(outputs: Outputs) -> tuple[float, float]:
    """Return what deviations are compared with: std of the energy per atom, mean |force component|."""
    sizes = torch.tensor([len(forces) for forces in outputs.forces])
    return float((outputs.energy / sizes).std()), float(torch.cat(outputs.forces).abs().mean())


def figures(
    energy: Tensor, per_atom: Tensor, forces: Tensor, scale: tuple[float, float], prefix: str = ""
) -> dict[str, float]:
    """Return the means of deviations, absolute and relative to the scales of the outputs."""
    return {
        f"{prefix}energy": float(energy.mean()),
        f"{prefix}energy_relative": float(per_atom.mean()) / scale[0],
        f"{prefix}forces": float(forces.mean()),
        f"{prefix}forces_relative": float(forces.mean()) / scale[1],
    }


def difference(
    first: Outputs, second: Outputs, scale: tuple[float, float], prefix: str = ""
) -> dict[str, float]:
    """Return the mean absolute difference of two sets of outputs of the same structures."""
    sizes = torch.tensor([len(forces) for forces in first.forces])
    energy = (first.energy - second.energy).abs()
    forces = (torch.cat(first.forces) - torch.cat(second.forces)).abs()
    return figures(energy, energy / sizes, forces, scale, prefix)


def measure_rotations(
    weights: Weights, row: Row, structures: Sequence[Any], rotations: Tensor, seed: int
) -> tuple[dict[str, float], Outputs]:
    """Return how far outputs change under ``rotations`` (B, R, 3, 3), forces turned back, and the outputs."""
    model, dtype = build_model(weights, row, seed), DTYPES[row.dtype]
    identity = torch.eye(3, dtype=torch.float64)
    still = predict(model, [batch_of(s, identity, dtype) for s in structures], weights.units)
    scale = scales(still)
    found = []
    for turns in rotations.unbind(1):
        batches = [batch_of(s, q, dtype) for s, q in zip(structures, turns, strict=True)]
        turned = predict(model, batches, weights.units)
        back = [forces @ q for forces, q in zip(turned.forces, turns, strict=True)]
        found.append(difference(turned._replace(forces=back), still, scale))
    return {**mean_of(found), "energy_scale": scale[0], "forces_scale": scale[1]}, still


def measure_rolls(
    weights: Weights, row: Row, structures: Sequence[Any], draws: int, seed: int
) -> dict[str, float]:
    """Return the standard deviation of outputs over random rolls of all edges, a mean over structures."""
    model = build_model(weights, row, seed)
    batches = [batch_of(s, torch.eye(3, dtype=torch.float64), DTYPES[row.dtype]) for s in structures]
    drawn = [
        predict(model, batches, weights.units, torch.Generator().manual_seed(draw)) for draw in range(draws)
    ]
    energy = torch.stack([out.energy for out in drawn]).std(dim=0)
    forces = torch.stack([torch.cat(out.forces) for out in drawn]).std(dim=0)
    sizes = torch.tensor([len(structure.pos) for structure in structures])
    return figures(energy, energy / sizes, forces, scales(drawn[0]))


def mean_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]}
