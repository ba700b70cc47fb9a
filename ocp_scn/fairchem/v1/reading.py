"""The places where fairchem-core 1.10 reads files, made to run nothing that a file names."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairchem.core.common import utils
from fairchem.core.common.registry import registry
from fairchem.core.common.relaxation import ase_utils
from fairchem.core.datasets import base_dataset, lmdb_dataset, oc22_lmdb_dataset
from fairchem.core.modules.normalization import _load_utils, element_references, normalizer
from fairchem.core.modules.scaling import compat
from torch_geometric.data import Data

from ocp_scn import torch_files
from ocp_scn.checkpoint_sections import check_configuration
from ocp_scn.errors import InputError, UnreadableError, cause, shown
from ocp_scn.fairchem.reading import load_arrays, with_load
from ocp_scn.fairchem.v1.loading import CLASSES, check_fit, read_checkpoint
from ocp_scn.fairchem.v1.model import SphericalChannelNetwork
from ocp_scn.trained import NAMES
from ocp_scn.unpickling import ERRORS, TRUST, Graph, RefusedError, loads, trusted

log = logging.getLogger(__name__)
# Where a dotted name of a class in a configuration is imported from.
_OURS = ("fairchem.core.models.", "ocp_scn.fairchem.v1.model.", "ocp_scn.SphericalChannelNetwork")
_NAMES = ("name", "model", "module", "fn", "trainer")


def guard_fairchem() -> None:
    """Replace what fairchem unpickles samples, checkpoints and other files with."""
    samples = SimpleNamespace(loads=load_sample, load=lambda file: load_sample(file.read()))
    lmdb_dataset.pickle = oc22_lmdb_dataset.pickle = samples
    base_dataset.np = with_load(np, load_arrays)
    ase_utils.torch = utils.torch = with_load(torch, load_whole_checkpoint)
    for module in (_load_utils, element_references, normalizer, compat):
        module.torch = with_load(torch, _load_values)


def load_sample(data: bytes) -> Any:
    """Return a sample of a data set, a graph of PyTorch Geometric, from its pickle.

    Raises:
        RefusedError: for one that has something else than arrays and plain values, unless the user trusts it.
        UnreadableError: for what is no sample.
    """
    if trusted():
        return pickle.loads(data)
    try:
        found = loads(data)
    except RefusedError:
        raise
    except ERRORS as error:
        raise UnreadableError(f"it is no sample of fairchem 1: {cause(error)}") from error
    return Data.from_dict(found.attributes) if isinstance(found, Graph) else found


def load_whole_checkpoint(path: Any, map_location: Any = "cpu") -> Any:
    """Return a checkpoint from which a model is built, as its configuration says.

    Raises:
        InputError: for what cannot be read, a configuration that is none, the name of a class that is none
            of a model, or weights that do not fit the settings.
    """
    checkpoint = read_checkpoint(path, map_location, needed=("state_dict", "config", "normalizers"))
    config = checkpoint["config"]
    try:
        check_configuration(config)
        _check_registered(config)
    except InputError as error:
        raise InputError(f"{path} is not a checkpoint of fairchem: {error}") from error
    if not trusted():
        _check_names(path, {key: config.get(key) for key in ("model", "model_attributes", "trainer")})
        _check_names(path, config.get("loss_functions"))
    _check_fit(path, checkpoint)
    normalizers = {
        target: {name: torch.as_tensor(value) for name, value in state.items()}
        for target, state in checkpoint["normalizers"].items()
    }
    return {**checkpoint, "normalizers": normalizers, "elementrefs": checkpoint.get("elementrefs") or {}}


def _check_registered(config: Mapping[str, Any]) -> None:
    """Check the names of model and trainer, of which those with dots are checked elsewhere."""
    model = config["model"]
    names = {
        "model": model if isinstance(model, str) else model["name"],
        "trainer": config.get("trainer", "ocp"),
    }
    for kind, name in names.items():
        known = registry.mapping[f"{kind}_name_mapping"]
        if not isinstance(name, str) or ("." not in name and name not in known):
            raise InputError(f"its {kind} is {shown(name)}; expected {', '.join(known)}")


def _check_fit(path: Any, checkpoint: Mapping[str, Any]) -> None:
    """Check that the weights of this package's model are those that the settings ask for."""
    config = checkpoint["config"]
    model = config.get("model_attributes") or config["model"]
    name = model.get("name", config["model"])
    if name in NAMES and checkpoint["config"].get("task", {}).get("strict_load", True):
        with torch.device("meta"):
            settings = {key: value for key, value in model.items() if key != "name"}
            expected = SphericalChannelNetwork(**settings).state_dict()
        check_fit(str(path), checkpoint["state_dict"], expected)


def _check_names(path: Any, section: Any) -> None:
    """Refuse dotted names, by which fairchem imports and calls anything, unless they are of models."""
    if isinstance(section, Mapping):
        for key, value in section.items():
            dotted = key in _NAMES and isinstance(value, str) and "." in value
            if dotted and not value.startswith(_OURS):
                raise InputError(
                    f"{path}: refused {key}: {value!r}, which is no model of fairchem or of this package; "
                    f"for files that you trust, set {TRUST}=1"
                )
            _check_names(path, value)
    elif isinstance(section, list | tuple):
        for value in section:
            _check_names(path, value)


def _load_values(path: Any) -> Any:
    return torch_files.read(path, more=CLASSES)


def warn_of_trust(path: Any) -> None:
    """Say that a data set is read as pickles that may run programs."""
    if trusted():
        log.warning(f"{path} is trusted: programs that it names are run as it is read ({TRUST}=1)")
