"""The kernels, and the configurations in the package; everything else is in setup.cfg."""

import shutil
from pathlib import Path
from zlib import crc32

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SOURCE, HEADER = "ocp_scn/ops/cpu/kernels.cpp", "ocp_scn/ops/cpu/ranges.h"
OPTIONS = ["-std=c++17", "-O3", "-g0", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


class BuildWithConfigs(build_py):
    """Puts ``configs/`` into the package; where that is linked, they are beside it."""

    def run(self):
        """Copy the modules, and the configurations into the folder of the package."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib, "ocp_scn/configs"), dirs_exist_ok=True)


setup(
    cmdclass={"build_py": BuildWithConfigs},
    ext_modules=[
        Extension(
            "ocp_scn.ops.cpu._compiled",
            [SOURCE],
            depends=["setup.py", HEADER],
            # By this number the package knows whether the compiled code is that of its sources.
            define_macros=[
                ("SOURCE_CRC32", f"{crc32(Path(SOURCE).read_bytes() + Path(HEADER).read_bytes())}u")
            ],
            # OpenMP is not linked: it has to be torch's, which is there when the kernels are loaded.
            extra_compile_args=OPTIONS,
            optional=True,  # without a compiler torch computes it all
        )
    ],
)
