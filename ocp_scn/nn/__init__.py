"""The blocks of the network, one a file, in the order of the paper's figure."""

from ocp_scn.nn.aggregation import GridAggregation
from ocp_scn.nn.edges import EdgeGroup, group_edges
from ocp_scn.nn.heads import SphereReadout, sphere_samples
from ocp_scn.nn.kernel_edges import KernelEdgeGroup, group_edges_for_kernels
from ocp_scn.nn.message import MessageBlock
from ocp_scn.nn.radial import EdgeFeatures, RadialBasis, polynomial_envelope
from ocp_scn.nn.recompute import joined

__all__ = [
    "EdgeFeatures",
    "EdgeGroup",
    "GridAggregation",
    "KernelEdgeGroup",
    "MessageBlock",
    "RadialBasis",
    "SphereReadout",
    "group_edges",
    "group_edges_for_kernels",
    "joined",
    "polynomial_envelope",
    "sphere_samples",
]
