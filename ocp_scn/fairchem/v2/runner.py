"""fairchem-core 2's runner of a training, which looks at the settings before it makes anything of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from fairchem.core.components.evaluate.eval_runner import EvalRunner
from fairchem.core.components.train.train_runner import TrainEvalRunner
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from ocp_scn.errors import InputError, shown
from ocp_scn.fairchem.memory import memory_named
from ocp_scn.fairchem.ranges import above_zero, decay, milestones, not_negative, whole
from ocp_scn.fairchem.ranks import own_message
from ocp_scn.fairchem.v2.reporting import EvaluationReport, TrainingReport

_COUNTS = ("max_epochs", "max_steps", "evaluate_every_n_steps", "max_eval_steps_per_epoch")
_LOADERS = ("train_dataloader", "eval_dataloader")
# Checks of what a configuration has at these places of its section ``runner``; null stands for nothing.
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_COUNTS, whole),
    **{f"{loader}.num_workers": lambda name, value: whole(name, value, 0) for loader in _LOADERS},
    **{f"{loader}.batch_sampler_fn.max_atoms": whole for loader in _LOADERS},
    "train_eval_unit.print_every": whole,
    "train_eval_unit.ema_decay": decay,
    "train_eval_unit.clip_grad_norm": above_zero,
    "train_eval_unit.optimizer_fn.lr": above_zero,
    "train_eval_unit.optimizer_fn.weight_decay": not_negative,
    "train_eval_unit.cosine_lr_scheduler_fn.milestones": milestones,
    "train_eval_unit.cosine_lr_scheduler_fn.gamma": above_zero,
    "train_eval_unit.cosine_lr_scheduler_fn.warmup_steps": lambda name, value: whole(name, value, 0),
    "train_eval_unit.cosine_lr_scheduler_fn.warmup_factor": above_zero,
    "train_eval_unit.tasks.loss_fn.coefficient": not_negative,
    "callbacks.checkpoint_every_n_steps": whole,
    "callbacks.max_saved_checkpoints": whole,
}


class TrainRunner(TrainEvalRunner):
    """fairchem's runner of a training, whose refusals are one line and status 2.

    In configurations it has ``_recursive_: False``: it makes its parts itself, from checked numbers.

    Args:
        config: the section ``runner``, as fairchem's runner takes it.
    """

    def __init__(self, **config: Any) -> None:
        with one_line():
            check_settings({name: _plain(value) for name, value in config.items()})
            super().__init__(**{name: _made(value) for name, value in config.items()})
        self.callbacks: list[Any] = [*self.callbacks, TrainingReport()]


class EvaluateRunner(EvalRunner):
    """fairchem's runner of an evaluation, which says what it evaluates, how far it is and what came out."""

    def __init__(self, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        self.callbacks: list[Any] = [*self.callbacks, EvaluationReport()]

    def run(self) -> None:
        """Evaluate.

        Raises:
            InputError: for a batch for which the memory is too small, or data without anything to compare.
        """
        sampler = getattr(self.dataloader, "batch_sampler", None)
        with memory_named(self.eval_unit.model, f"max_atoms={getattr(sampler, 'max_atoms', None)}"):
            try:
                super().run()
            except ZeroDivisionError as error:
                found = nothing_compared(self.eval_unit)
                if found is None:
                    raise
                raise found from error


def nothing_compared(unit: Any) -> InputError | None:
    """Return that an evaluation that divided by zero lacks labels for a metric; None if it has them."""
    names = [
        task
        for task, of_sets in unit.running_metrics.items()
        if any(metric.numel == 0 for metrics in of_sets.values() for metric in metrics.values())
    ]
    if not names:
        return None
    return InputError(
        f"the data that are evaluated have nothing to compare with predictions of {', '.join(names)}: no "
        "labels, or only those of fixed atoms"
    )


def check_settings(runner: Mapping[str, Any]) -> None:
    """Check the numbers of a section ``runner``.

    Raises:
        InputError: for one that is of another type or out of its range.
    """
    for place, check in _CHECKS.items():
        for name, value in _found(runner, place, "runner"):
            if value is not None:
                check(name, value)


def _found(section: Any, place: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of what stands at a place, in each part of a list."""
    if isinstance(section, list):
        for number, part in enumerate(section):
            yield from _found(part, place, f"{name}.{number}")
    elif isinstance(section, Mapping):
        first, _, rest = place.partition(".")
        if first in section and rest:
            yield from _found(section[first], rest, f"{name}.{first}")
        elif first in section:
            yield f"{name}.{first}", section[first]
    elif section is not None:
        raise InputError(f"{name}={shown(section)}; expected a section of keys and values")


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line and status 2 where the user can mend what was wrong."""
    try:
        yield
    except (InputError, InstantiationException) as error:
        found = input_error(error)
        if found is None:
            raise
        refuse(found)


def input_error(error: BaseException) -> InputError | None:
    """Return what the user can mend, where an error was raised from that; hydra and fairchem wrap it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        if isinstance(cause, AssertionError) and "less batches than ranks" in str(cause):  # of fairchem
            return InputError(f"{cause} Lower max_atoms, or take fewer ranks")
        cause = cause.__cause__
    return cause


def refuse(error: InputError) -> NoReturn:
    """End the process with one line and status 2; of several ranks, whoever launched them says it."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        raise error
    tqdm.write(f"error: {own_message(error)}", file=sys.stderr)  # above a bar, where there is one
    sys.exit(2)


def _plain(value: Any) -> Any:
    is_config = isinstance(value, DictConfig | ListConfig)
    return OmegaConf.to_container(value, resolve=True) if is_config else value


def _made(value: Any) -> Any:
    return hydra.utils.instantiate(value) if isinstance(value, DictConfig | ListConfig) else value
