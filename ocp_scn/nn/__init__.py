"""The blocks of the network, one a file, in the order of the paper's figure."""

from ocp_scn.nn.aggregation import GridAggregation
from ocp_scn.nn.edges import Edges, split_edges
from ocp_scn.nn.heads import SphereReadout, sphere_samples
from ocp_scn.nn.message import MessageBlock, sum_messages
from ocp_scn.nn.radial import EdgeFeatures, RadialBasis, polynomial_envelope

__all__ = [
    "EdgeFeatures",
    "Edges",
    "GridAggregation",
    "MessageBlock",
    "RadialBasis",
    "SphereReadout",
    "polynomial_envelope",
    "sphere_samples",
    "split_edges",
    "sum_messages",
]
