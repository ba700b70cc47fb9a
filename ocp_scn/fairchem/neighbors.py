"""Edges of fairchem's batches, and the checks that these need before a network sees them.

Both lines of fairchem have nearly the same batches, so this serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.pairs import MIN_DISTANCE, coinciding_atoms, radius_graph
from ocp_scn.sphere import default_dtype

Search = Callable[..., tuple[Tensor, Tensor, Tensor]]


def find_edges(data: Any, config: SCNConfig, search: Search = radius_graph) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges of a batch: source (E,), target (E,) and vec (E, 3) in Å.

    Which atoms are neighbours is decided as fairchem's radius graph does, in float32; the vectors
    are computed anew from positions and cell in their own precision, and gradients flow through
    them.

    Args:
        data: fairchem's batch.
        config: the model's settings.
        search: a radius graph with the interface of fairchem's.
    """
    if config.otf_graph:
        edge_index, offsets = _radius_graph(data, config, search)
    else:
        edge_index, offsets = _stored_graph(data)
    source, target = edge_index
    vec = data.pos[source] - data.pos[target]
    if config.use_pbc:
        cells = data.cell[data.batch[target]]  # (E, 3, 3)
        vec = vec + (offsets.to(vec)[:, None] @ cells).squeeze(1)
    return source, target, vec


def check_batch(data: Any, config: SCNConfig) -> None:
    """Raise :class:`InputError` for structures that the model cannot compute."""
    outside = (data.atomic_numbers < 0) | (data.atomic_numbers >= config.max_num_elements)
    if outside.any():
        atom = int(outside.nonzero()[0])
        raise InputError(
            f"atomic number {int(data.atomic_numbers[atom])} in {_system_name(data, atom)}; "
            f"expected 0..{config.max_num_elements - 1} (max_num_elements={config.max_num_elements})"
        )
    finite = torch.isfinite(data.pos).all(dim=1)
    if not finite.all():
        atom = int((~finite).nonzero()[0])
        raise InputError(
            f"position {data.pos[atom].tolist()} in {_system_name(data, atom)}; expected finite numbers"
        )
    if not torch.isfinite(data.cell).all():
        raise InputError("a cell has entries that are not finite numbers")
    pair = _coinciding_atoms(data, config.use_pbc)
    if pair is not None:
        first, second = pair
        raise InputError(
            f"{_system_name(data, first)} and atom {_index_in_system(data, second)} are at one place "
            f"(closer than {MIN_DISTANCE} Å)"
        )


def _radius_graph(data: Any, config: SCNConfig, search: Search) -> tuple[Tensor, Tensor]:
    """Return edge_index (2, E) and cell offsets (E, 3) by a search in float32."""
    indices, offsets, first_atom = [], [], 0
    for part in _parts(data, single=config.use_pbc_single):
        part.pbc = torch.tensor([_periodic(part.pbc) if config.use_pbc else [False] * 3])
        pos, images = _wrap(part.pos, part.cell, part.natoms, part.pbc[0])
        part.pos, part.cell = pos.float(), part.cell.float()
        with default_dtype(torch.float32):  # fairchem mixes its input with the default
            index, offset, _ = search(
                part, config.cutoff, config.max_num_neighbors, enforce_max_neighbors_strictly=True
            )
        indices.append(index + first_atom)
        offsets.append(offset - images[index[0]].to(offset) + images[index[1]].to(offset))
        first_atom += len(pos)
    return torch.cat(indices, dim=1), torch.cat(offsets)


def _parts(data: Any, *, single: bool) -> Iterator[SimpleNamespace]:
    """Yield what a search reads of a batch: all systems together, or each by itself if ``single``."""
    size = 1 if single else len(data.natoms)
    pbc = data.pbc.reshape(-1, 3).split(size) if "pbc" in data else repeat(None)
    first = 0
    for natoms, cell, periodic in zip(data.natoms.split(size), data.cell.split(size), pbc, strict=False):
        last = first + int(natoms.sum())
        batch = torch.repeat_interleave(natoms)
        pos = data.pos[first:last].detach()
        yield SimpleNamespace(pos=pos, cell=cell.detach(), natoms=natoms, batch=batch, pbc=periodic)
        first = last


def _wrap(pos: Tensor, cell: Tensor, natoms: Tensor, periodic: Tensor) -> tuple[Tensor, Tensor]:
    """Move atoms into their cells, which searches take for granted; return images (A, 3) too.

    pos = wrapped + images @ cell, with zero images along directions that are not periodic.
    """
    cells = cell.reshape(-1, 3, 3)
    fractional = pos[:, None] @ torch.linalg.pinv(cells).repeat_interleave(natoms, dim=0)
    images = fractional.squeeze(1).floor() * periodic.to(pos)
    return pos - (images[:, None] @ cells.repeat_interleave(natoms, dim=0)).squeeze(1), images


def _stored_graph(data: Any) -> tuple[Tensor, Tensor]:
    missing = [key for key in ("edge_index", "cell_offsets") if key not in data]
    if missing:
        raise InputError(
            f"otf_graph=False but the data have no {' and no '.join(missing)}; set otf_graph: True"
        )
    return data.edge_index, data.cell_offsets


def _periodic(pbc: Tensor | None) -> list[bool]:
    """Return whether each of the three directions is periodic; fairchem takes one answer a batch."""
    if pbc is None:
        return [True, True, True]
    rows = pbc.bool()
    if (rows != rows[0]).any():
        raise InputError(
            f"a batch mixes periodic boundary conditions {rows.unique(dim=0).tolist()}; "
            "set use_pbc_single: True"
        )
    return rows[0].tolist()


def _coinciding_atoms(data: Any, use_pbc: bool) -> tuple[int, int] | None:
    """Return two atoms (indices in the batch) at one place, periodic images included, if any."""
    first_atom = 0
    for part in _parts(data, single=True):
        periodic = torch.tensor(_periodic(part.pbc) if use_pbc else [False] * 3)
        pos, _ = _wrap(part.pos, part.cell, part.natoms, periodic)
        pair = coinciding_atoms(pos, part.cell[0], periodic)
        if pair is not None:
            return first_atom + pair[0], first_atom + pair[1]
        first_atom += len(pos)
    return None


def _index_in_system(data: Any, atom: int) -> int:
    return atom - int((data.batch < data.batch[atom]).sum())


def _system_name(data: Any, atom: int) -> str:
    system = int(data.batch[atom])
    sid = data.sid[system] if "sid" in data else system
    sid = sid.item() if isinstance(sid, Tensor) else sid
    return f"system {sid}, atom {_index_in_system(data, atom)}"
