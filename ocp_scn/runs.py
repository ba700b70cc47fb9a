"""The commands ``train``, ``validate``, ``predict --config`` and ``relax`` of ``ocp-scn``, in either line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from ocp_scn.errors import InputError, cause
from ocp_scn.experiments import find
from ocp_scn.options import Parser, integer, status_of
from ocp_scn.unpickling import TRUST_HELP

MODES = {  # of main.py
    "train": "train",
    "validate": "validate",
    "predict": "predict",
    "relax": "run-relaxations",
}
_TEXTS = {
    "train": "Train a model. A training that is named by --timestamp-id goes on from its last checkpoint.",
    "validate": "Evaluate a checkpoint on the validation set (dataset.val) of a configuration.",
    "predict": """Predict the data set of a configuration (dataset.test; of fairchem 2, src) with a checkpoint
into the file from which reports and files for the leaderboards are made.""",
    "relax": """Relax the systems of a data set (dataset.relax) with a checkpoint's forces.
A relaxation that is named by --timestamp-id goes on with what is left.""",
}
_EXAMPLES = {
    "train": """ocp-scn train --config configs/s2ef/example/scn.yml --cpu --run-dir runs/mine \\
      --optim.max_epochs=1""",
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
  The value is read as Python, or as a string if it is none.
  A configuration of fairchem 2 (configs/fairchem2) takes such settings; of the options only --verbose."""


def build_parser(mode: str = "train") -> argparse.ArgumentParser:
    """Return the parser of a command; only what a command line has gets into its namespace."""
    parser = Parser(
        prog=f"ocp-scn {mode}",
        usage=f"ocp-scn {mode} --config FILE [options] [--KEY=VALUE ...]",
        description=_TEXTS[mode],
        epilog=f"{_SETTINGS}\n\nexample:\n  {_EXAMPLES[mode]}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add, flag = parser.add_argument, partial(parser.add_argument, action="store_true")
    add("--config", "--config-yml", type=Path, required=True, metavar="FILE", help="the configuration")
    add("--checkpoint", metavar="FILE", help="that the run begins with")
    add("--run-dir", metavar="FOLDER", help="for checkpoints, results and logs (default: the current one)")
    add("--timestamp-id", metavar="NAME", help="of the run's folders (default: the time)")
    add("--identifier", metavar="TEXT", help="that ends the time as the run's name")
    add("--seed", type=integer(0), metavar="N", help="of random numbers (default: 0)")
    add("--print-every", type=integer(1), metavar="N", help="steps between lines of run.log (default: 10)")
    flag("--verbose", help="print all that run.log has")
    flag("--debug", help="write no files")
    flag("--trust", help=TRUST_HELP)
    flag("--cpu", help="use no GPU")
    flag("--amp", help="mixed precision of GPUs")
    add("--num-gpus", type=integer(1), metavar="N", help="processes of a node (default: 1), also with --cpu")
    add("--num-nodes", type=integer(1), metavar="N", help="nodes of a job (default: 1)")
    flag("--submit", help="make a job of SLURM (docs/clusters.md)")
    add("--logdir", metavar="FOLDER", help="for what jobs print (default: logs)")
    add("--sweep-yml", metavar="FILE", help="values of settings; each combination is a job")
    for name, text in (("partition", "partition"), ("account", "account"), ("qos", "quality of service")):
        add(f"--slurm-{name}", metavar="NAME", help=f"{text} of jobs")
    add("--slurm-mem", type=integer(1), metavar="GB", help="memory of a node (default: 80)")
    add("--slurm-timeout", type=integer(1), metavar="HOURS", help="of a job (default: 72)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names; return the exit status (2 for bad input)."""
    mode, *words = argv
    args, settings = build_parser(mode).parse_known_args(words)
    return status_of(lambda: _run(mode, words, args, settings))


def _run(mode: str, words: Sequence[str], args: argparse.Namespace, settings: Sequence[str]) -> int:
    config = find(args.config)
    if check_line(config) == 1:
        from ocp_scn.fairchem.v1.launcher import main as launch  # noqa: PLC0415

        return launch(["--mode", MODES[mode], *words, "--config-yml", str(config)])
    return _run_in_fairchem2(mode, config, args, settings)


def _run_in_fairchem2(mode: str, config: Path, args: argparse.Namespace, settings: Sequence[str]) -> int:
    if mode == "relax":
        raise InputError("relax needs fairchem-core 1.10; with 2, ASE relaxes (docs/fairchem2.md)")
    given = sorted(set(vars(args)) - {"config", "verbose"})
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(
            f"{option} is an option of fairchem 1; 2 takes settings, such as job.device_type=CPU"
        )
    from ocp_scn.fairchem.v2.command import run  # noqa: PLC0415

    return run(config, settings, mode, verbose="verbose" in args)


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
            f"--config {config} is for fairchem-core {needed}, and {here} is installed; make {target}, or "
            f"pip install 'ocp-scn[{extra}]' in an environment of its own (docs/install.md)"
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
