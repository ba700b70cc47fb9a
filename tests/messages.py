"""Messages of single edges, which the network only ever sums at their targets, and rotations one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ocp_scn.nn import Edges, MessageBlock, split_edges
from ocp_scn.sphere import dense_rows


def rotate_rows(rows: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Turn signals (E, (L + 1)**2, C) into the edge frames and keep the orders of ``rows``: (E, S, C)."""
    return dense_rows(rows) @ coefficients


def rotate_back(rows: Sequence[Tensor], kept: Tensor) -> Tensor:
    """Turn kept coefficients (E, S, C) back into the global frame, by the transpose: (E, (L + 1)**2, C)."""
    return dense_rows(rows).mT @ kept


def edge_messages(
    block: MessageBlock, x: Tensor, features: Tensor, source: Tensor, target: Tensor, rows: list[Tensor]
) -> Tensor:
    """Return the message (K, C') of each edge by giving every edge a target of its own."""
    num_edges = len(source)
    wigner = torch.cat([block_of_degree.flatten(1) for block_of_degree in rows], dim=1)
    receivers = torch.arange(num_edges)
    size = num_edges + len(x)
    chunks = split_edges(source + num_edges, receivers, size, (2, 1), recorded=True)
    return block(torch.cat([x[target], x]), features, Edges(wigner, wigner, chunks))[:num_edges]
