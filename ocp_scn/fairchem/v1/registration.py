"""Make this package known to fairchem-core 1.10 in every process that imports it."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import Any

from fairchem.core.common.registry import registry

from ocp_scn.fairchem.files import of_other_line
from ocp_scn.fairchem.v1 import shards
from ocp_scn.fairchem.v1.loading import MODULE_OF_FAIRCHEM2
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.fairchem.v1.trainer import SCNTrainer

NAMES = ("ocp_scn", "scn")
# fairchem's names for the one trainer that its configurations of every year mean.
TRAINERS = ("ocp", "energy", "forces")


class _NamesWithOurs(dict[str, Any]):
    """fairchem's table of model names, in which ours stay when the built-in SCN registers later."""

    def __setitem__(self, name: str, model: Any) -> None:
        if name not in NAMES:
            super().__setitem__(name, model)


class _NamesOfFairchem2(MetaPathFinder):
    """Says what to do where a checkpoint of fairchem-core 2 is read, by fairchem's calculator as well."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Raise for the modules that such a checkpoint names, as Python would, with another message."""
        if name == MODULE_OF_FAIRCHEM2:
            raise ModuleNotFoundError(of_other_line(2), name=name)


def register() -> None:
    """Register the model as ``ocp_scn`` and ``scn``, trainer, data set, and what else runs need of fairchem.

    fairchem's own set-up imports every built-in model, and with them torch-sparse and parts of
    scipy that no longer exist. Only loggers, trainers, data sets and tasks are imported here;
    built-in models stay reachable by their dotted path.
    """
    models = registry.mapping["model_name_mapping"]
    if not isinstance(models, _NamesWithOurs):
        models = {**models, **dict.fromkeys(NAMES, SphericalChannelNetwork)}
        registry.mapping["model_name_mapping"] = _NamesWithOurs(models)
    for module in ("common.logger", "datasets", "trainers", "tasks"):
        importlib.import_module(f"fairchem.core.{module}")
    for name in TRAINERS:
        registry.register_trainer(name)(SCNTrainer)
    for name in shards.NAMES:
        registry.register_dataset(name)(shards.ShardedLmdbDataset)
    registry.register("imports_setup", True)
    if not any(isinstance(finder, _NamesOfFairchem2) for finder in sys.meta_path):
        sys.meta_path.append(_NamesOfFairchem2())
