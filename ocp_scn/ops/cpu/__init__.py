"""The operators for CPUs, compiled from C++ when the package is installed.

There are none where no compiler was; ``OCP_SCN_KERNELS=0`` in the environment switches them off. They are
compiled for several instruction sets, of which the best is taken that the processor has;
``OCP_SCN_KERNELS=avx512``, ``avx2`` or ``any`` takes another one.
"""

from ocp_scn.ops.cpu.library import FOLDER, INSTRUCTION_SETS, SWITCH, compiled, instruction_sets

__all__ = ["FOLDER", "INSTRUCTION_SETS", "SWITCH", "compiled", "instruction_sets"]
