"""The plugin of fairchem-core 1.10: the model of its registry, and what a run there needs beside it."""

from ocp_scn.fairchem.v1.model import SphericalChannelNetwork

__all__ = ["SphericalChannelNetwork"]
