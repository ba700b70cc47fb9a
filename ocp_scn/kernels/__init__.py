"""What torch is slow at on processors, compiled from C++ here when the package is installed.

The kernels take float32, and bfloat16 where the network's mixed precision has it, in the processor's memory,
and know no derivatives. Whoever calls them has to manage without: there are none where no compiler was, and
``OCP_SCN_KERNELS=0`` in the environment, or :func:`disabled` in a program, switches them off. They are
compiled for several instruction sets, of which the best is taken that the processor has;
``OCP_SCN_KERNELS=avx512``, ``avx2`` or ``any`` takes another one.
"""

from ocp_scn.kernels.activations import (
    Mean,
    Rolls,
    average,
    average_derivative,
    gated,
    gated_derivative,
    silu,
    silu_derivative,
)
from ocp_scn.kernels.library import FOLDER, INSTRUCTION_SETS, SWITCH, disabled, instruction_sets, usable
from ocp_scn.kernels.rotations import Rotations, sum_back, turn
from ocp_scn.kernels.tensors import Layout, Row

__all__ = [
    "FOLDER",
    "INSTRUCTION_SETS",
    "SWITCH",
    "Layout",
    "Mean",
    "Rolls",
    "Rotations",
    "Row",
    "average",
    "average_derivative",
    "disabled",
    "gated",
    "gated_derivative",
    "instruction_sets",
    "silu",
    "silu_derivative",
    "sum_back",
    "turn",
    "usable",
]
