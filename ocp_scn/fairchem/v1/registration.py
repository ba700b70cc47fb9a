"""Make this package known to fairchem-core 1.10 in every process that imports it."""

from __future__ import annotations

import importlib
from typing import Any

from fairchem.core.common.registry import registry

from ocp_scn.fairchem.v1 import shards
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.fairchem.v1.reading import guard_fairchem
from ocp_scn.fairchem.v1.trainer import SCNTrainer

NAMES = ("ocp_scn", "scn")
# fairchem's names for the one trainer that its configurations of every year mean.
TRAINERS = ("ocp", "energy", "forces")


class _NamesWithOurs(dict[str, Any]):
    """fairchem's table of model names, in which ours stay when the built-in SCN registers later."""

    def __setitem__(self, name: str, model: Any) -> None:
        if name not in NAMES:
            super().__setitem__(name, model)


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
    guard_fairchem()
