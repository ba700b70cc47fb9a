"""The fused operators of the network: what torch's own ones compute too slowly.

They are operators of torch (``torch.ops.ocp_scn``), with derivatives of first and second order. Their
definitions, and the meaning of the arguments, are in `ocp_scn.ops.reference`, which runs on every device
and in every dtype; CPUs have code in C++ and NVIDIA's GPUs in Triton.
"""

from importlib.util import find_spec

import torch

from ocp_scn.ops import cpu
from ocp_scn.ops.cpu import operators
from ocp_scn.ops.library import implement, operator

node_to_edge = operator("node_to_edge")
edge_to_node = operator("edge_to_node")
edge_to_node_ = operator("edge_to_node_")
wigner_gradient = operator("wigner_gradient")
gate = operator("gate")
gate_backward = operator("gate_backward")
bias_silu = operator("bias_silu")
bias_silu_ = operator("bias_silu_")
bias_silu_backward = operator("bias_silu_backward")
tap_mean = operator("tap_mean")
tap_mean_backward = operator("tap_mean_backward")

if cpu.compiled():
    implement("CPU", operators)
if torch.cuda.is_available() and find_spec("triton") is not None:
    from ocp_scn.ops import triton

    implement("CUDA", triton)
