"""The commands of ``ocp-scn`` that run a configuration, in either line of fairchem."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from ocp_scn.errors import InputError, cause
from ocp_scn.experiments import find
from ocp_scn.options import Parser, integer, status_of
from ocp_scn.unpickling import TRUST_HELP

MODES = {  # of main.py
    "train": "train",
    "finetune": "train",
    "validate": "validate",
    "predict": "predict",
    "relax": "run-relaxations",
}
_TEXTS = {
    "train": "Train a model. --timestamp-id NAME resumes the training of that name from its last checkpoint.",
    "finetune": "Train the model of a checkpoint on other data, beginning with its weights.",
    "validate": "Evaluate a checkpoint on the validation set (dataset.val) of a configuration.",
    "predict": """Predict the data set of a configuration (dataset.test; of fairchem 2, src) with a checkpoint
into the file from which reports and files for the leaderboards are made.""",
    "relax": """Relax the systems of a data set (dataset.relax) with a checkpoint's forces.
--timestamp-id NAME resumes the relaxation of that name.""",
}
_EXAMPLES = {
    "train": """ocp-scn train --config configs/s2ef/example/scn.yml --cpu --run-dir runs/mine \\
      --optim.max_epochs=1 --report""",
    "finetune": """ocp-scn finetune checkpoint.pt --config configs/s2ef/example/finetune.yml --cpu
  ocp-scn finetune inference_ckpt.pt --config configs/fairchem2/s2ef/finetune.yaml max_epochs=5""",
    "validate": """ocp-scn validate --config configs/s2ef/example/scn.yml --cpu --run-dir runs/mine \\
      --checkpoint best_checkpoint.pt --dataset.val.src=datasets/mine/val""",
    "predict": """ocp-scn predict --config configs/s2ef/example/scn.yml --cpu --run-dir runs/mine \\
      --checkpoint best_checkpoint.pt --dataset.test.src=datasets/mine/val
  ocp-scn predict --config configs/fairchem2/predict.yaml job.device_type=CPU \\
      checkpoint=inference_ckpt.pt src=datasets/mine/val results=runs/mine/results/ocp_predictions.npz""",
    "relax": """ocp-scn relax --config configs/s2ef/example/scn.yml --cpu --run-dir runs/mine \\
      --checkpoint best_checkpoint.pt --dataset.relax.src=datasets/sample/is2re/val""",
}
_SETTINGS = """settings:
  --KEY=VALUE sets any key of the configuration, with dots between the levels and an equals sign:
  --optim.batch_size=8 --model.num_interactions=4 '--optim.lr_milestones=[20000,40000]'
  The value is read as Python, or as a string if it is not valid Python.
  With a configuration of fairchem 2 (configs/fairchem2), use such settings; of the options only --verbose
  and --report."""


def build_parser(mode: str = "train") -> argparse.ArgumentParser:
    """Return the parser of a command; only what a command line has gets into its namespace."""
    checkpoint = "CHECKPOINT " if mode == "finetune" else ""
    parser = Parser(
        prog=f"ocp-scn {mode}",
        usage=f"ocp-scn {mode} {checkpoint}--config FILE [options] [--KEY=VALUE ...]",
        description=_TEXTS[mode],
        epilog=f"{_SETTINGS}\n\nexample:\n  {_EXAMPLES[mode]}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add, flag = parser.add_argument, partial(parser.add_argument, action="store_true")
    add("--config", "--config-yml", type=Path, required=True, metavar="FILE", help="configuration of the run")
    if mode == "finetune":
        add("checkpoint", metavar="CHECKPOINT", help="checkpoint whose weights the training begins with")
    else:
        add("--checkpoint", metavar="FILE", help="checkpoint to load")
    add("--run-dir", metavar="FOLDER", help="where checkpoints, results and logs go (default: .)")
    add("--timestamp-id", metavar="NAME", help="name of the run's folders (default: the time)")
    add("--identifier", metavar="TEXT", help="text after the time in the run's name")
    add("--seed", type=integer(0), metavar="N", help="seed of random numbers (default: 0)")
    add("--print-every", type=integer(1), metavar="N", help="steps between lines of run.log (default: 10)")
    flag("--verbose", help="print everything that run.log has")
    flag("--debug", help="write no files")
    if MODES[mode] == "train":
        flag("--report", help="write a report of the run at its end, as ocp-scn report does")
    flag("--trust", help=TRUST_HELP)
    flag("--cpu", help="use no GPU")
    flag("--amp", help="mixed precision, on GPUs")
    add("--num-gpus", type=integer(1), metavar="N", help="processes per node (default: 1), also with --cpu")
    add("--num-nodes", type=integer(1), metavar="N", help="nodes of the job (default: 1)")
    flag("--submit", help="run as a SLURM job (docs/clusters.md)")
    add("--logdir", metavar="FOLDER", help="where the output of jobs goes (default: logs)")
    add("--sweep-yml", metavar="FILE", help="lists of values of settings; each combination is a job")
    for name, text in (("partition", "partition"), ("account", "account"), ("qos", "quality of service")):
        add(f"--slurm-{name}", metavar="NAME", help=f"{text} of the job")
    add("--slurm-mem", type=integer(1), metavar="GB", help="memory per node (default: 80)")
    add("--slurm-timeout", type=integer(1), metavar="HOURS", help="time limit of the job (default: 72)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names; return the exit status (2 for bad input)."""
    mode, *words = argv
    args, settings = build_parser(mode).parse_known_args(words)
    return status_of(lambda: _run(mode, vars(args), settings))


def _run(mode: str, options: dict[str, Any], settings: Sequence[str]) -> int:
    config, report = find(options.pop("config")), options.pop("report", False)
    begin = str(Path(options.pop("checkpoint")).absolute()) if mode == "finetune" else None
    if report:
        _check_report(options)
    if check_line(config) == 1:
        from ocp_scn.fairchem.v1.launcher import main as launch  # noqa: PLC0415

        words = ["--mode", MODES[mode], "--config-yml", str(config), *words_of(options), *settings]
        status, folder = launch(words, finetune=begin), Path(options.get("run_dir", "."))
    else:
        status, folder = _run_in_fairchem2(mode, config, begin, options, settings, reports=report)
    return status_of(lambda: _report(folder)) if report and status == 0 else status


def _report(folder: Path) -> None:
    from ocp_scn.report.command import write_report  # noqa: PLC0415

    write_report(folder)


def _check_report(options: Mapping[str, Any]) -> None:
    """Raise InputError where a run has no folder at its end, or several processes would write there."""
    unfit = [name for name in ("--submit", "--debug") if name[2:] in options]
    unfit += ["--num-nodes"] if options.get("num_nodes", 1) > 1 else []
    if unfit:
        raise InputError(f"--report does not go with {unfit[0]}; afterwards: ocp-scn report RUN_DIR")


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that has these options."""
    words = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def _run_in_fairchem2(
    mode: str,
    config: Path,
    begin: str | None,
    options: dict[str, Any],
    settings: Sequence[str],
    *,
    reports: bool,
) -> tuple[int, Path]:
    """Run a configuration of fairchem-core 2; return the exit status and the run's folder."""
    if mode == "relax":
        raise InputError("relax needs fairchem-core 1.10; in 2, relax with ASE (docs/fairchem2.md)")
    verbose = options.pop("verbose", False)
    if options:
        option = f"--{min(options).replace('_', '-')}"
        raise InputError(
            f"{option} is an option of fairchem 1; with fairchem 2 use settings, such as job.device_type=CPU"
        )
    from ocp_scn.fairchem.v2.command import run  # noqa: PLC0415  # where this line is installed
    from ocp_scn.fairchem.v2.finetuning import begin_with  # noqa: PLC0415

    first = [] if begin is None else [begin_with(begin)]
    return run(config, [*first, *settings], mode, verbose=verbose, reports=reports)


def check_line(config: Path) -> int:
    """Return the line of fairchem that is installed, 1 or 2.

    Raises:
        InputError: if the configuration cannot be read or is for the other line, or fairchem is not there.
    """
    line, needed = installed_line(), line_of(config)
    if line != needed:
        here = f"fairchem-core {version('fairchem-core')}" if line else "no fairchem"
        extra, target = ("fairchem", "env") if needed == 1 else ("fairchem2", "env-fairchem2")
        raise InputError(
            f"--config {config} is for fairchem-core {needed}, and {here} is installed; run make {target}, "
            f"or pip install 'ocp-scn[{extra}]' in another environment (docs/install.md)"
        )
    return line


def installed_line() -> int | None:
    """Return the line of fairchem that is installed, 1 or 2; None without it."""
    try:
        return int(version("fairchem-core").split(".")[0])
    except PackageNotFoundError:
        return None


def line_of(config: Path) -> int:
    """Return the line of fairchem that a configuration is for, 1 or 2.

    Raises:
        InputError: for a file that cannot be read, or that is no configuration.
    """
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"--config {config} cannot be read: {cause(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"--config {config} cannot be read: it has no sections")
    return 2 if {"defaults", "runner", "job"} & set(found) else 1
