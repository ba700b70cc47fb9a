"""fairchem's command line, launched so that this package is known in every process of a run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from fairchem.core import _cli
from fairchem.core.common import distutils
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config
from submitit.core.utils import FailedJobError
from submitit.helpers import DelayedSubmission
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record

from ocp_scn.allocator import keep_freed_memory
from ocp_scn.errors import InputError, cause, nearest
from ocp_scn.fairchem.console import introduce, kept, terminal
from ocp_scn.fairchem.files import refusals_as_input_errors, written_whole
from ocp_scn.fairchem.jobs import check_slurm, refusal_of_slurm
from ocp_scn.fairchem.memory import is_out_of_memory, out_of_memory
from ocp_scn.fairchem.ranks import (
    STATUSES_OF_SIGNALS,
    cause_in_rank,
    launch_config,
    leave_the_first_word,
    lost_rank,
    own_message,
)
from ocp_scn.fairchem.replaced import replaced
from ocp_scn.fairchem.v1.checks import check_device, check_run, without_unneeded_data
from ocp_scn.fairchem.v1.finetuning import with_checkpoint
from ocp_scn.fairchem.v1.folders import (
    claim_run_name,
    claimed_folder,
    outcome_folder,
    run_folder,
)
from ocp_scn.fairchem.v1.interruption import interruption
from ocp_scn.fairchem.v1.jobs import JobExecutor, rank_environment, sweep_configs, was_requeued
from ocp_scn.signals import ending
from ocp_scn.unpickling import trust

# What fairchem's reader ends with: no text, no YAML, values where sections belong, too many levels.
_NO_CONFIGURATION = (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError, RecursionError)
# What becomes of a run that a signal ends between two batches, by mode; trainings say it themselves.
_UNFINISHED = {"run-relaxations": "the same command with this run's --timestamp-id goes on"}
# What is read of a configuration, beside the options of the command line.
_SECTIONS = ("dataset", "evaluation_metrics", "logger", "loss_functions", "model", "optim", "outputs",
             "slurm", "task", "timeout", "trainer", "model_attributes", "hide_eval_progressbar",
             "use_cuda_visibile_devices", "verbose")  # fmt: skip
# Names of 2023 for losses and metrics, in files alone; and what fairchem adds.
_IN_FILES = ("loss_fns", "eval_metrics")
_ADDED = ("distributed_backend", "is_debug", "world_size")


class Runner(_cli.Runner):
    """fairchem's runner under a name of this package.

    submitit pickles it and the job's process unpickles it: importing this module there is what
    registers the model, so neither ``main.py`` nor a search path has to reach the job.
    """

    def __call__(self, config: dict[str, Any]) -> None:
        """Run one process of a configuration."""
        keep_freed_memory()
        folder = None
        if not config["is_debug"]:
            folder = outcome_folder(config["run_dir"], config["timestamp_id"], config["mode"])
        given = config
        config = without_unneeded_data(config)
        if config["submit"]:
            config = _as_task_of_job(config)
            check_device(config, int(os.environ["LOCAL_RANK"]))
        else:
            ending.watch(
                _UNFINISHED.get(config["mode"], "nothing is written, and the same command begins anew")
            )
        # So that fairchem leaves the GPUs alone, of which there may be none, or fewer than ranks.
        config["use_cuda_visibile_devices"] = config["cpu"]
        rank, everything = int(os.environ.get("RANK", "0")), folder is None or config.get("verbose", False)
        try:
            with (
                refusals_as_input_errors(config["run_dir"]),
                terminal(everything=everything),
                kept(folder, rank),
            ):
                if folder is not None and rank == 0:
                    introduce(given["timestamp_id"], given["mode"], folder, cpu=given["cpu"])
                    with written_whole(folder / "config.yml") as part:  # which another run can take
                        part.write_text(yaml.safe_dump(given, sort_keys=False))
                super().__call__(config)
        except (MemoryError, RuntimeError) as error:
            if interruption.requested and not distutils.is_master():
                sys.exit("this rank ends: the first one has saved the run and requeued the job")
            if ending.number is not None and not distutils.is_master():
                ending.end(ending.number, silent=True)
            if is_out_of_memory(error):
                raise self._out_of_memory(error) from error
            lost = lost_rank(error)
            if lost is not None:
                leave_the_first_word()
                rank = distutils.get_rank()
                raise InputError(f"rank {rank} lost another rank, which has ended: {lost}") from error
            raise

    def _out_of_memory(self, error: BaseException) -> InputError:
        trainer: Any = getattr(self, "trainer", None)
        if trainer is None:
            return out_of_memory(error, None, None, "")
        optim = trainer.config["optim"]
        key = "batch_size" if trainer.model.training or "eval_batch_size" not in optim else "eval_batch_size"
        return out_of_memory(error, trainer.model, trainer.batch, f"optim.{key}={optim.get(key, 1)}")

    def checkpoint(self, config: dict[str, Any]) -> DelayedSubmission:
        """Save a training as its last whole step left it; return the job that goes on with it.

        Other modes have nothing to save: relaxations keep what is finished, the others begin again.
        """
        if config["mode"] == "train":
            self.trainer.save_between_steps()
        if self.trainer.logger is not None:
            self.trainer.logger.mark_preempting()
        return DelayedSubmission(Runner(), config)


def _as_task_of_job(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration for this task of a job, as that of a rank that torch launched.

    fairchem's way into a job's process group uses CUDA even with ``--cpu``, and one port for all jobs.
    """
    os.environ.update(rank_environment())
    interruption.take_over()
    # fairchem would write the run's name, which is there already, into the file that requeued jobs read.
    del config["slurm"]["folder"]
    own = run_folder(config["run_dir"], config["timestamp_id"]) / "checkpoint.pt"
    if was_requeued() and config["mode"] == "train" and own.is_file():
        config["checkpoint"] = str(own)
    return {**config, "submit": False}


@record
def run(config: dict[str, Any]) -> None:
    """Run one process of a training, validation, prediction or relaxation."""
    Runner()(config)


def main(argv: Sequence[str] | None = None, *, finetune: str | None = None) -> int:
    """Run fairchem's command line; return the exit status (2 for bad input).

    Args:
        argv: its words; those of this process if None.
        finetune: a checkpoint with whose weights a training begins.
    """
    own, rest = _own_parser().parse_known_args(argv)
    args, overrides = flags.get_parser().parse_known_args(rest)
    args.finetune = finetune or own.finetune
    if own.trust:
        trust()
    with terminal(everything=own.verbose or args.debug or args.submit):
        return _launch(args, [*overrides, *(["--verbose=True"] if own.verbose else [])])


def _own_parser() -> argparse.ArgumentParser:
    """Return the parser of what this package has beside fairchem's arguments; main.py describes them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--finetune")
    return parser


def _launch(args: Any, overrides: list[str]) -> int:
    try:
        config = load_config(args, overrides)
        for each in _configs(args, config):
            check_run(each)
            if not args.submit:
                check_device(each, args.num_gpus - 1)
        claim_run_name(args)
        folder = None
        if not args.debug and not args.submit:
            folder = outcome_folder(args.run_dir, args.timestamp_id, args.mode)
        # fairchem's command line looks these up to submit, spawn or run.
        ours = replaced(
            _cli,
            Runner=Runner,
            runner_wrapper=run,
            AutoExecutor=partial(JobExecutor, cpu=args.cpu),
            create_grid=sweep_configs,
            LaunchConfig=launch_config,
            build_config=partial(_build_config, of_checkpoints=config),
        )
        with refusals_as_input_errors(args.logdir), kept(folder), ours:
            _cli.main(args, overrides)
    except InputError as error:
        return _refuse(own_message(error))
    except FailedJobError as error:
        with suppress(OSError):  # a folder that is not empty is of a run before
            claimed_folder(args).rmdir()
        return _refuse(refusal_of_slurm(error))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in STATUSES_OF_SIGNALS:  # of a rank that has said so
            return failure.exitcode
        reason = cause_in_rank(error)
        if reason is None:
            raise
        return _refuse(reason)
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _configs(args: Any, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configuration of every run that a command line with this one starts."""
    if args.submit:
        check_slurm("--submit")
    if args.sweep_yml is None:
        return [config]
    if not args.submit:
        raise InputError("--sweep-yml needs --submit: each of its runs is a job")
    return sweep_configs({**config, "timestamp_id": args.timestamp_id or ""}, args.sweep_yml)


def _build_config(args: Any, overrides: list[str], *, of_checkpoints: dict[str, Any]) -> dict[str, Any]:
    """Return fairchem's configuration with the sections that checkpoints have a say in."""
    sections = {name: of_checkpoints[name] for name in ("model", "task") if name in of_checkpoints}
    return {**build_config(args, overrides, include_paths=_include_paths(args)), **sections}


def load_config(args: Any, overrides: list[str]) -> dict[str, Any]:
    """Return the configuration of a command line as fairchem builds it, without its warnings.

    Raises:
        InputError: for a file that cannot be read, an argument that is none, or as
            `ocp_scn.fairchem.v1.finetuning.with_checkpoint` does.
    """
    unknown = [word for word in overrides if not word.startswith("--") or "=" not in word]
    if unknown:
        raise InputError(f"argument {unknown[0]!r} not understood; overrides are written --key.subkey=value")
    for word in overrides:
        section = word[2:].split("=")[0].split(".")[0]
        if section not in _SECTIONS:
            raise InputError(f"override {word!r}: nothing reads {section!r}; expected {', '.join(_SECTIONS)}")
    logging.disable(logging.WARNING)  # fairchem builds the configuration again, and warns then
    try:
        config = build_config(args, overrides, include_paths=_include_paths(args))
    except _NO_CONFIGURATION as error:
        raise InputError(f"--config-yml {args.config_yml} cannot be read: {cause(error)}") from error
    finally:
        logging.disable(logging.NOTSET)
    known = {*_SECTIONS, *_IN_FILES, *_ADDED, *vars(args)}
    for key in config:
        if key not in known:
            raise InputError(f"{args.config_yml} has {key!r}, which nothing reads{nearest(key, _SECTIONS)}")
    return with_checkpoint(config, getattr(args, "finetune", None))


def _include_paths(args: Any) -> list[Path]:
    """Return where the files that a configuration includes are looked for, beside the working directory."""
    return list(args.config_yml.absolute().parents)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
