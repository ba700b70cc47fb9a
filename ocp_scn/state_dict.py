"""The names that weights have in checkpoints: those of fairchem's built-in SCN.

Published checkpoints then load as they are, and a checkpoint of ours loads into the built-in
model. The order of the parameters is the built-in's too, which its moving averages and
optimiser states rely on.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

# (name here, name in checkpoints), of a module below an edge block or of a readout.
_NAMES = [
    ("edge_features.fc1.", "dist_block.fc1_dist."),
    ("edge_features.fc2.", "dist_block.fc1_edge_attr."),
    ("edge_features.", "dist_block."),
    ("aggregation.fc1.", "fc1_sphere."),
    ("aggregation.fc2.", "fc2_sphere."),
    ("aggregation.fc3.", "fc3_sphere."),
    ("energy_head.", "energy_"),
    ("force_head.", "force_"),
]
_MESSAGE_NAMES = [
    ("fc_features.", "fc1_dist."),
    ("fc1.", "fc1_edge_proj."),
    ("fc2.", "fc1_edge."),
    ("fc3.", "fc2_edge."),
]
_EDGE_BLOCK = re.compile(r"(edge_blocks\.\d+\.)(.*)")
_MESSAGE = re.compile(r"(edge_blocks\.\d+\.)messages(\.\d+\.)(.*)")
_CHECKPOINT_MESSAGE = re.compile(r"(edge_blocks\.\d+\.)message_blocks(\.\d+\.)(.*)")
_EXPANSION = "distance_expansion."


def to_checkpoint_name(name: str) -> str:
    """Return the name in checkpoints of the parameter ``name``."""
    if match := _MESSAGE.fullmatch(name):
        block, index, rest = match.groups()
        return f"{block}message_blocks{index}{_replace_start(rest, _MESSAGE_NAMES)}"
    block, rest = _split_block(name)
    return block + _replace_start(rest, _NAMES)


def from_checkpoint_name(name: str) -> str:
    """Return the name here of the parameter that checkpoints call ``name``."""
    if match := _CHECKPOINT_MESSAGE.fullmatch(name):
        block, index, rest = match.groups()
        return f"{block}messages{index}{_replace_start(rest, _reverse(_MESSAGE_NAMES))}"
    block, rest = _split_block(name)
    return block + _replace_start(rest, _reverse(_NAMES))


def translate_state_dict(model: nn.Module) -> None:
    """Make ``model.state_dict()`` and ``model.load_state_dict()`` use the names of checkpoints."""
    model._register_state_dict_hook(_save)
    model._register_load_state_dict_pre_hook(_load, with_module=True)


def keep_own_names(model: nn.Module) -> None:
    """Undo `translate_state_dict`, for frameworks that look weights up by the names in a state dict."""
    hooks = {**model._state_dict_hooks, **model._load_state_dict_pre_hooks}
    for key, hook in hooks.items():
        if getattr(hook, "hook", hook) in (_save, _load):
            model._state_dict_hooks.pop(key, None)
            model._load_state_dict_pre_hooks.pop(key, None)


def _save(model: Any, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    own = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
    centres = getattr(model.distance_expansion, "centres", None)
    expansion = {"fc1.weight": None, "fc1.bias": None} if centres is None else {"offset": centres}
    for name, value in own.items():
        state[prefix + to_checkpoint_name(name)] = value
    # The built-in model registers one radial basis at every place that uses it.
    for key, table in expansion.items():
        value = own[_EXPANSION + key] if table is None else table
        state[prefix + _EXPANSION + key] = value
        for k in range(len(model.edge_blocks)):
            state[f"{prefix}edge_blocks.{k}.{_EXPANSION}{key}"] = value
            state[f"{prefix}edge_blocks.{k}.dist_block.{_EXPANSION}{key}"] = value


def _load(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        name, value = key[len(prefix) :], state.pop(key)
        copy_of_expansion = name.startswith("edge_blocks.") and f".{_EXPANSION}" in name
        if not copy_of_expansion and name != f"{_EXPANSION}offset":
            state[prefix + from_checkpoint_name(name)] = value


def _split_block(name: str) -> tuple[str, str]:
    match = _EDGE_BLOCK.fullmatch(name)
    return match.groups() if match else ("", name)  # type: ignore[return-value]


def _replace_start(name: str, table: list[tuple[str, str]]) -> str:
    for old, new in table:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _reverse(table: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(new, old) for old, new in table]
