"""Edges of fairchem's batches.

Both lines of fairchem have nearly the same batches, so this serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.inputs import check_mixed, check_places, checked_systems, has_tiny_cells
from ocp_scn.fairchem.pairs import nearest
from ocp_scn.fairchem.search import compares_all, find_pairs
from ocp_scn.fairchem.systems import Systems, to_device
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.graph import TIE, Graph, build_graph
from ocp_scn.sphere import default_dtype

Search = Callable[..., tuple[Tensor, Tensor, Tensor]]
# Other searches see systems that begin further than half of this from the origin moved to it, Å.
_FAR = 256.0


def batch_graph(
    data: Any, config: SCNConfig, search: Search | None = None, known: KnownElements | None = None
) -> Graph:
    """Return the graph of a batch, on its device, after the checks that it needs.

    Between batch and graph two results are waited for: positions, cells and elements, then the number of
    each atom's neighbours. With ``keep_tied_neighbors`` there is a third: how many are left.

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
        keep_tied_neighbors=config.keep_tied_neighbors,
        counts=counts,
    )


def find_edges(data: Any, config: SCNConfig, search: Search | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges of a batch: source (E,), target (E,) and vec (E, 3) in Å.

    Which atoms are neighbours is decided as fairchem's radius graph does, in float32; the vectors
    are computed anew from positions and cell in their own precision, and gradients flow through
    them. With ``keep_tied_neighbors``, `build_graph` applies the cap, where the vectors are known.

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
    systems, counts = checked_systems(data, config, known), None
    if not config.otf_graph:
        check_places(data, systems)
        (source, target), offsets = _stored_graph(data)
    elif search is None:
        source, target, offsets, counts = _neighbors(data, config, systems)
    else:
        check_places(data, systems)
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
    check_mixed(config, systems)
    if has_tiny_cells(systems):
        check_places(data, systems)  # before the many images of a tiny cell are listed
    pairs = find_pairs(systems, _radius(config), data.pos.device)
    if pairs.suspicious:
        check_places(data, systems)
    source, target, offset, counts = pairs.source, pairs.target, pairs.offset, pairs.counts
    if 0 < config.max_num_neighbors < counts.max(initial=0) and not config.keep_tied_neighbors:
        on_device = compares_all(data.pos.device)
        together = on_device or not config.use_pbc_single
        groups = [len(counts)] if together else systems.natoms.tolist()
        kept = nearest(pairs, config.max_num_neighbors, groups, stable=on_device)
        source, target, offset = source[kept], target[kept], offset[kept]
        counts = np.minimum(counts, config.max_num_neighbors)
    if systems.moved.any():
        # In the precision of the positions: float32 holds no numbers of cells beyond 2^24.
        moved = to_device(systems.moved.astype(systems.cell.dtype), offset.device)
        offset = offset - moved[source] + moved[target]
    return source, target, offset, counts


def _searched_graph(data: Any, config: SCNConfig, search: Search, systems: Systems) -> tuple[Tensor, Tensor]:
    """Return edge_index (2, E) and cell offsets (E, 3) by another search, in float32."""
    check_mixed(config, systems)
    device, size = data.pos.device, 1 if config.use_pbc_single else max(1, len(systems.natoms))
    near = systems.pos - np.round(systems.pos[systems.first[systems.system]] / _FAR) * _FAR
    pos, cell = (to_device(values.astype(np.float32), device) for values in (near, systems.cell))
    moved = to_device(systems.moved.astype(systems.cell.dtype), device)
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
            # Not strictly, fairchem keeps those of the next distance as well; build_graph has the last word.
            index, offset, _ = search(
                part,
                _radius(config),
                config.max_num_neighbors,
                enforce_max_neighbors_strictly=not config.keep_tied_neighbors,
            )
        source, target = index + first
        indices.append(torch.stack([source, target]))
        offsets.append(offset.to(moved) - moved[source] + moved[target])
    return torch.cat(indices, dim=1), torch.cat(offsets)


def _radius(config: SCNConfig) -> float:
    """Return the distance up to which atoms are neighbours, Å."""
    return config.cutoff + TIE if config.keep_tied_neighbors else config.cutoff


def _stored_graph(data: Any) -> tuple[Tensor, Tensor]:
    missing = [key for key in ("edge_index", "cell_offsets") if key not in data]
    if missing:
        raise InputError(
            f"otf_graph=False but the data have no {' and no '.join(missing)}; set otf_graph: True"
        )
    return data.edge_index, data.cell_offsets
