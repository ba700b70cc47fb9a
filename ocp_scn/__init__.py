"""Spherical Channel Network (SCN) for atomic systems, as a plugin of fairchem.

Importing this package makes ``ocp_scn`` and ``scn`` model names in fairchem-core 1.10 where that
is installed; without it, the network (`SCN`) works on plain tensors.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.model import SCN

__version__ = "0.1.0"
__all__ = ["SCN", "InputError", "SCNCalculator", "SCNConfig", "__version__"]


def __getattr__(name: str) -> Any:
    """Return the calculator, for which ASE has to be installed; the network does without."""
    if name != "SCNCalculator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ocp_scn.calculator import SCNCalculator  # noqa: PLC0415

    return SCNCalculator


def _fairchem_line() -> str | None:
    try:
        return version("fairchem-core").split(".")[0]
    except PackageNotFoundError:
        return None


if _fairchem_line() == "1":
    from ocp_scn.fairchem.v1 import SphericalChannelNetwork
    from ocp_scn.fairchem.v1.registration import register

    register()
    __all__ += ["SphericalChannelNetwork"]
