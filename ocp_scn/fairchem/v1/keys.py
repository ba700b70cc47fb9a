"""The keys that a configuration may have, and what its sections may name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.modules import evaluator
from fairchem.core.modules.normalization.element_references import fit_linear_references
from fairchem.core.modules.normalization.normalizer import fit_normalizers

from ocp_scn.errors import InputError, nearest, shown
from ocp_scn.fairchem.v1.relaxations import OPTIMIZER_KEYS

_DATA = (  # of every data set, of LMDB files, of ASE's, and of files before 2023
    "format src key_mapping transforms use_train_settings splits train_split_settings val_split_settings "
    "test_split_settings first_n sample_n max_atoms max_atom subset_to no_shuffle seed metadata_path lin_ref "
    "shard total_shards data2train train_on_oc20_total_energies oc20_ref "
    "a2g_args apply_tags atoms_transform_args ase_read_args connect_args select_args pattern index_file "
    "keep_in_memory include_relaxed_energy use_tqdm "
    "normalize_labels target_mean target_std grad_target_mean grad_target_std"
)
_OUTPUT = "shape irrep_dim level property prediction_dtype train_on_free_atoms eval_on_free_atoms parent"
# What fairchem-core 1.10 and this package read of each section, or published files have; * is any name.
_KEYS = {
    "dataset": "train val test relax",
    "dataset.*": _DATA,
    "dataset.*.transforms.decompose_tensor": "tensor rank decomposition",
    "dataset.*.transforms.decompose_tensor.decomposition.*": "irrep_dim",
    "outputs.*": f"{_OUTPUT} decomposition",
    "outputs.*.decomposition.*": _OUTPUT,
    "loss_functions.*": "fn coefficient reduction",
    "evaluation_metrics": "metrics primary_metric",
    "task": "prediction_dtype strict_load set_deterministic_scatter eval_relaxations relax_dataset relax_opt "
    "num_relaxation_batches relaxation_steps relaxation_fmax relax_cell relax_volume save_full_traj "
    "write_pos dataset description type metric labels grad_input primary_metric "
    "train_on_free_atoms eval_on_free_atoms finetune",
    "task.relax_dataset": _DATA,
    "task.relax_opt": f"{' '.join(OPTIMIZER_KEYS)} name",
    "optim": "batch_size eval_batch_size num_workers load_balancing load_balancing_on_error "
    "max_epochs eval_every checkpoint_every checkpoint_format load_datasets_and_model_then_exit "
    "optimizer optimizer_params weight_decay lr_initial clip_grad_norm ema_decay "
    "scheduler lr_gamma lr_milestones warmup_steps warmup_factor "
    "loss_energy loss_force loss_forces energy_coefficient force_coefficient",
}
_LEVELS = {"energy": ("system",), "forces": ("atom",), "stress": ("system",)}
_LOGGERS = {"wandb": "name project entity group watch log_weight_table", "tensorboard": "name watch"}
_FITS = {"normalizer": fit_normalizers, "element_references": fit_linear_references}


def check_keys(config: Mapping[str, Any]) -> None:
    """Check that something reads each key of the sections of a configuration.

    Raises:
        InputError: for a key that nothing reads, naming the nearest that something does; for a target that
            is no output, or a loss, a metric, an optimizer or a schedule that there is not.
    """
    data = config.get("dataset")
    if isinstance(data, list):  # the layout of 2022
        config = {**config, "dataset": dict(zip(("train", "val", "test"), data, strict=False))}
    extra = _check_optimizer(section("optim", config.get("optim")))
    for pattern, keys in _KEYS.items():
        for name, found in _sections(config, pattern):
            check_known(name, found, [*keys.split(), *(extra if name == "optim" else ())])
    logger = config.get("logger")
    if isinstance(logger, Mapping) and logger.get("name") in _LOGGERS:
        check_known("logger", logger, _LOGGERS[logger["name"]].split())
    for transform, fit in _FITS.items():
        for name, found in _sections(config, f"dataset.*.transforms.{transform}.fit"):
            known = set(inspect.signature(fit).parameters) - {"dataset", "element_references", "seed"}
            check_known(name, found, [*sorted(known), "fitted"])
    _check_targets(config)


def check_known(name: str, found: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check the keys of one section.

    Raises:
        InputError: for one that is not among those ``known``.
    """
    names = list(known)
    for key in found:
        if key not in names:
            raise InputError(f"{name} has {key!r}, which nothing reads{nearest(key, names)}")


def section(name: str, value: Any) -> Mapping[str, Any]:
    """Return a section, empty where there is none.

    Raises:
        InputError: for what is no section.
    """
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name}={shown(value)}; expected a section of keys and values")
    return value or {}


def _sections(value: Any, pattern: str, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and content of each section that a pattern of _KEYS means; a list's parts have its name."""
    if isinstance(value, list):
        for part in value:
            yield from _sections(part, pattern, name)
        return
    found = section(name, value)
    if not pattern:
        yield name, found
        return
    first, _, rest = pattern.partition(".")
    for key in found if first == "*" else {first} & set(found):
        yield from _sections(found[key], rest, f"{name}.{key}" if name else key)


def metric_names(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names under which fairchem reports metrics, such as ``forces_mae``.

    Raises:
        InputError: for what is no list of metrics that there are.
    """
    found = []
    for target, functions in metrics.items():
        for function in functions if isinstance(functions, list) else [functions]:
            # Where fairchem looks for it.
            if functions == function or not callable(getattr(evaluator, str(function), None)):
                name = f"evaluation_metrics.metrics.{target}"
                raise InputError(f"{name}={shown(functions)}; expected a list of metrics, such as mae")
            found.append(function if target in function or target == "misc" else f"{target}_{function}")
    return found


def _check_targets(config: Mapping[str, Any]) -> None:
    """Check targets of losses, metrics and normalizers, and the names of the functions."""
    outputs = section("outputs", config.get("outputs"))
    if not outputs:  # files before 2023, which have them from their task
        return
    parts = [key for _, found in _sections(config, "outputs.*.decomposition") for key in found]
    for name, found in _sections(config, "outputs.*"):
        _check_output(name, found, compared=config.get("mode") in ("train", "validate"))
    targets = [*outputs, *parts]
    for pattern, more in (
        ("loss_functions", []),
        ("evaluation_metrics.metrics", ["misc"]),
        ("dataset.*.transforms.normalizer", ["fit", "file"]),
    ):
        for name, found in _sections(config, pattern):
            check_known(name, found, [*targets, *more])
    for _, found in _sections(config, "evaluation_metrics.metrics"):
        metric_names(found)
    losses = registry.mapping["loss_name_mapping"]
    for name, found in _sections(config, "loss_functions.*"):
        function = str(found.get("fn"))
        if function not in losses and "." not in function:
            raise InputError(f"{name}.fn={found.get('fn')!r}; expected {', '.join(losses)}")
        if "coefficient" not in found:
            raise InputError(f"{name} has no coefficient; expected a number")


def _check_output(name: str, output: Mapping[str, Any], *, compared: bool) -> None:
    """Check what fairchem reads of an output without a default; ``compared`` with labels, it reads more."""
    if "decomposition" in output:  # whose parts have defaults
        return
    levels = _LEVELS.get(name.removeprefix("outputs."), ("system", "atom"))
    if output.get("level") not in levels:
        raise InputError(f"{name}.level={shown(output.get('level'))}; expected {' or '.join(levels)}")
    for key in (
        ("train_on_free_atoms", "eval_on_free_atoms") if compared and output["level"] == "atom" else ()
    ):
        if not isinstance(output.get(key), bool):
            raise InputError(f"{name}.{key}={shown(output.get(key))}; expected True or False")


def _check_optimizer(optim: Mapping[str, Any]) -> list[str]:
    """Check optimizer and schedule, which get parameters by name; return those that a schedule reads."""
    optimizer = _named(optim, "optimizer", "AdamW", torch.optim, torch.optim.Optimizer)
    params = section("optim.optimizer_params", optim.get("optimizer_params"))
    check_known("optim.optimizer_params", params, sorted(set(_parameters(optimizer)) - {"params", "lr"}))
    if optim.get("scheduler", "Null") == "Null":
        return []
    schedules = torch.optim.lr_scheduler
    schedule = _named(optim, "scheduler", None, schedules, schedules.LRScheduler)
    known = {name: value for name, value in _parameters(schedule).items() if name != "optimizer"}
    lacking = [name for name, value in known.items() if value.default is value.empty and name not in optim]
    if lacking:
        raise InputError(f"optim.scheduler={optim['scheduler']!r} needs optim.{lacking[0]}; it is not set")
    return list(known)


def _named(optim: Mapping[str, Any], key: str, default: Any, module: Any, base: type) -> Any:
    """Return the class that a key of ``optim`` names."""
    found = getattr(module, str(optim.get(key, default)), None)
    if not (isinstance(found, type) and issubclass(found, base) and found is not base):
        raise InputError(f"optim.{key}={optim.get(key)!r}; expected a class of {module.__name__}")
    return found


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(cls).parameters)
    return {name: value for name, value in parameters.items() if value.kind != value.VAR_KEYWORD}
