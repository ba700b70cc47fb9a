"""Operators; those in C++ are missing only where nothing could compile them or somebody switched them off."""

import os
import shutil

import pytest

from ocp_scn.ops.cpu import SWITCH

needs_compiled = pytest.mark.skipif(
    shutil.which("c++") is None or os.environ.get(SWITCH) == "0", reason="no compiler, or switched off"
)
