"""Edges of fairchem's batches, and the checks that these need before a network sees them.

Both lines of fairchem have nearly the same batches, so this serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.pairs import coincidence, nearest
from ocp_scn.fairchem.search import MIN_DISTANCE, compares_all, find_pairs
from ocp_scn.fairchem.systems import Systems, check_cells, fetch, to_device
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.graph import Graph, build_graph
from ocp_scn.sphere import default_dtype

Search = Callable[..., tuple[Tensor, Tensor, Tensor]]


def batch_graph(
    data: Any, config: SCNConfig, search: Search | None = None, known: KnownElements | None = None
) -> Graph:
    """Return the graph of a batch, on its device, after the checks that it needs.

    Between batch and graph two results are waited for: positions, cells and elements, then the number of
    each atom's neighbours.

    Args:
        data: fairchem's batch.
        config: the model's settings.
        search: a radius graph with the interface of fairchem's; None is this package's.
        known: warns of other elements, or refuses them; None minds none.

    Raises:
        InputError: for structures that the model cannot compute.
    """
    source, target, vec, counts = _edges(data, config, search, known)
    return build_graph(
        source,
        target,
        vec,
        num_resolutions=config.num_resolutions,
        max_num_neighbors=config.max_num_neighbors,
        counts=counts,
    )


def find_edges(data: Any, config: SCNConfig, search: Search | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges of a batch: source (E,), target (E,) and vec (E, 3) in Å.

    Which atoms are neighbours is decided as fairchem's radius graph does, in float32; the vectors
    are computed anew from positions and cell in their own precision, and gradients flow through
    them.

    Args:
        data: fairchem's batch.
        config: the model's settings.
        search: a radius graph with the interface of fairchem's; None is this package's.

    Raises:
        InputError: for structures that the model cannot compute.
    """
    source, target, vec, _ = _edges(data, config, search, None)
    return source, target, vec


def _edges(
    data: Any, config: SCNConfig, search: Search | None, known: KnownElements | None
) -> tuple[Tensor, Tensor, Tensor, np.ndarray | None]:
    """Return source, target, vec and, where known, the number of each atom's edges."""
    systems, counts = _checked_systems(data, config, known), None
    if not config.otf_graph:
        _check_places(data, systems)
        (source, target), offsets = _stored_graph(data)
    elif search is None:
        source, target, offsets, counts = _neighbors(data, config, systems)
    else:
        _check_places(data, systems)
        (source, target), offsets = _searched_graph(data, config, search, systems)
    vec = data.pos[source] - data.pos[target]
    if config.use_pbc:
        cells = data.cell[data.batch[target]]  # (E, 3, 3)
        # Not a matrix product, which autocast and TF32 would round to three digits.
        vec = vec + (offsets.to(vec)[:, :, None] * cells).sum(1)
    return source, target, vec, counts


# --- searches -------------------------------------------------------------------------------------


def _neighbors(data: Any, config: SCNConfig, systems: Systems) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Return source, target, cell offsets (E, 3) and the number of each atom's edges, by our search."""
    _check_mixed(config, systems)
    if _tiny(systems):
        _check_places(data, systems)  # before the many images of a tiny cell are listed
    pairs = find_pairs(systems, config.cutoff, data.pos.device)
    if pairs.suspicious:
        _check_places(data, systems)
    source, target, offset, counts = pairs.source, pairs.target, pairs.offset, pairs.counts
    if 0 < config.max_num_neighbors < counts.max(initial=0):
        on_device = compares_all(data.pos.device)
        together = on_device or not config.use_pbc_single
        groups = [len(counts)] if together else systems.natoms.tolist()
        kept = nearest(pairs, config.max_num_neighbors, groups, stable=on_device)
        source, target, offset = source[kept], target[kept], offset[kept]
        counts = np.minimum(counts, config.max_num_neighbors)
    if systems.moved.any():
        moved = to_device(systems.moved.astype(np.float32), offset.device)
        offset = offset - moved[source] + moved[target]
    return source, target, offset, counts


def _searched_graph(data: Any, config: SCNConfig, search: Search, systems: Systems) -> tuple[Tensor, Tensor]:
    """Return edge_index (2, E) and cell offsets (E, 3) by another search, in float32."""
    _check_mixed(config, systems)
    device, size = data.pos.device, 1 if config.use_pbc_single else max(1, len(systems.natoms))
    pos, cell = (to_device(values.astype(np.float32), device) for values in (systems.pos, systems.cell))
    moved = to_device(systems.moved.astype(np.float32), device)
    indices, offsets = [], []
    for k in range(0, len(systems.natoms), size):
        natoms = systems.natoms[k : k + size]
        first = int(systems.first[k])
        part = SimpleNamespace(
            pos=pos[first : first + natoms.sum()],
            cell=cell[k : k + size],
            natoms=to_device(natoms, device),
            batch=to_device(np.repeat(np.arange(len(natoms)), natoms), device),
            pbc=torch.tensor(systems.periodic[k : k + 1]),
        )
        with default_dtype(torch.float32):  # fairchem mixes its input with the default
            index, offset, _ = search(
                part, config.cutoff, config.max_num_neighbors, enforce_max_neighbors_strictly=True
            )
        source, target = index + first
        indices.append(torch.stack([source, target]))
        offsets.append(offset - moved[source].to(offset) + moved[target].to(offset))
    return torch.cat(indices, dim=1), torch.cat(offsets)


def _stored_graph(data: Any) -> tuple[Tensor, Tensor]:
    missing = [key for key in ("edge_index", "cell_offsets") if key not in data]
    if missing:
        raise InputError(
            f"otf_graph=False but the data have no {' and no '.join(missing)}; set otf_graph: True"
        )
    return data.edge_index, data.cell_offsets


# --- checks ---------------------------------------------------------------------------------------


def _checked_systems(data: Any, config: SCNConfig, known: KnownElements | None) -> Systems:
    """Return the systems, wrapped; raise :class:`InputError` for those that the model cannot compute."""
    pbc = data.pbc.reshape(-1, 3) if "pbc" in data else None
    if not config.use_pbc:
        pbc = torch.zeros(len(data.natoms), 3, dtype=torch.bool, device=data.pos.device)
    systems, elements = fetch(data.pos, data.cell, data.natoms, pbc, data.atomic_numbers)
    outside = (elements < 0) | (elements >= config.max_num_elements)
    if outside.any():
        atom = int(outside.argmax())
        raise InputError(
            f"atomic number {int(elements[atom])} in {_system_name(data, systems, atom)}; "
            f"expected 0..{config.max_num_elements - 1} (max_num_elements={config.max_num_elements})"
        )
    if known is not None:
        known.check(elements)
    finite = np.isfinite(systems.pos).all(1)
    if not finite.all():
        atom = int((~finite).argmax())
        raise InputError(
            f"position {systems.pos[atom].tolist()} in {_system_name(data, systems, atom)}; "
            "expected finite numbers"
        )
    if not np.isfinite(systems.cell).all():
        raise InputError("a cell has entries that are not finite numbers")
    check_cells(systems, partial(_sid, data))
    return systems.wrapped()


def _check_mixed(config: SCNConfig, systems: Systems) -> None:
    if config.use_pbc_single or (systems.periodic == systems.periodic[:1]).all():
        return
    raise InputError(
        f"a batch mixes periodic boundary conditions {np.unique(systems.periodic, axis=0).tolist()}; "
        "set use_pbc_single: True"
    )


def _tiny(systems: Systems) -> bool:
    """Return whether a cell is so flat that atoms are at the places of their images."""
    heights = 1 / np.linalg.norm(systems.inverse, axis=1)
    return bool((systems.periodic & (heights < 2 * MIN_DISTANCE)).any())


def _check_places(data: Any, systems: Systems) -> None:
    """Raise :class:`InputError` if two atoms are at one place, periodic images included."""
    pair = coincidence(systems)
    if pair is not None:
        first, second = pair
        raise InputError(
            f"{_system_name(data, systems, first)} and atom {_index_in_system(systems, second)} "
            f"are at one place (closer than {MIN_DISTANCE} Å)"
        )


def _index_in_system(systems: Systems, atom: int) -> int:
    return atom - int(systems.first[systems.system[atom]])


def _system_name(data: Any, systems: Systems, atom: int) -> str:
    return f"{_sid(data, int(systems.system[atom]))}, atom {_index_in_system(systems, atom)}"


def _sid(data: Any, system: int) -> str:
    sid = data.sid[system] if "sid" in data else system
    return f"system {sid.item() if isinstance(sid, Tensor) else sid}"
