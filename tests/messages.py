"""Messages of single edges, which the network only ever sums at their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from ocp_scn.nn import EdgeGroup, MessageBlock
from ocp_scn.nn.edges import End, Receivers
from ocp_scn.sphere import dense_rows


def edge_messages(
    block: MessageBlock, x: Tensor, features: Tensor, source: Tensor, target: Tensor, rows: list[Tensor]
) -> Tensor:
    """Return the message (K, C') of each edge by giving every edge a target of its own."""
    num_edges, order = len(source), block.active_taps.by_order
    dense = dense_rows(rows)
    dense = dense if order is None else dense[:, order]
    edges = slice(0, num_edges)
    ends = End(source + num_edges, None, dense), End(edges, None, dense)
    group = EdgeGroup(edges, *ends, [Receivers(num_edges, num_edges, None, dense)])
    return block(torch.cat([x[target], x]), features, group)
