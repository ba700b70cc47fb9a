"""Checkpoints of both lines of fairchem, and the way from one to the other: ``ocp-scn checkpoint``.

``convert SOURCE TARGET`` finds out which line a checkpoint is of and writes one of the other. What
predictions need is carried over: the settings, the weights and their average, the normalizers, element
references and trained elements. The state of a training is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ocp_scn import torch_files
from ocp_scn.checkpoint_sections import check_sections
from ocp_scn.errors import InputError
from ocp_scn.fairchem.files import refused_writes, written_whole
from ocp_scn.fairchem.finite import check_finite_weights
from ocp_scn.fairchem.inference_checkpoints import CLASSES, STAND_INS, from_fairchem2
from ocp_scn.options import Parser, status_of
from ocp_scn.trained import Trained, from_fairchem1, to_fairchem1
from ocp_scn.unpickling import TRUST_HELP, trust

DESCRIPTION = """Convert checkpoints between fairchem 1 and 2. The new checkpoint has what predictions need:
settings, weights and their average, normalizers, element references, trained elements. It does not have the
state of the training."""
EPILOG = """examples:
  ocp-scn checkpoint convert scn_t1_b1_s2ef_2M.pt scn_t1_b1_s2ef_2M-fairchem2.pt
  ocp-scn checkpoint convert runs/fairchem2/NAME/checkpoints/final/inference_ckpt.pt fairchem1.pt"""


def convert(
    source: Path, target: Path, *, task_name: str = "oc20", overwrite: bool = False
) -> tuple[int, Trained]:
    """Write the checkpoint ``source`` for the other line of fairchem; return that line and what it has.

    Args:
        source: a checkpoint of fairchem-core 1, or an inference checkpoint of 2.
        target: the file to write, whole or not at all.
        task_name: name of the data set in fairchem 2, for its calculator.
        overwrite: replace an existing file.

    Raises:
        InputError: for a file that is no checkpoint of this model, or a target that exists or cannot be
            written.
    """
    if target.exists() and not overwrite:
        raise InputError(f"{str(target)!r} exists; name another file or pass --overwrite")
    if not version("fairchem-core").startswith("2."):
        raise InputError("converting needs fairchem-core 2 (make env-fairchem2); fairchem 1 is not needed")
    line, trained = read_trained(source)
    result = _of_other_line(line, trained, task_name)
    with refused_writes(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as part:
        torch.save(result, part)
    return 3 - line, trained


def read_trained(path: Path) -> tuple[int, Trained]:
    """Return the line of fairchem that a checkpoint is of, and what it has.

    Raises:
        InputError: for a file that is no checkpoint of this model, or with weights that are not finite.
    """
    loaded = torch_files.read(path, more=CLASSES, stand_ins=STAND_INS)
    try:
        line = _line_of(loaded)
        if line == 1:
            check_sections(loaded)
        trained = from_fairchem1(loaded) if line == 1 else from_fairchem2(loaded)
        check_finite_weights("it", trained.weights)
        check_finite_weights("its average", trained.averaged)
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from error
    return line, trained


def _line_of(loaded: Any) -> int:
    if isinstance(loaded, Mapping) and {"state_dict", "config"} <= set(loaded):
        return 1
    if hasattr(loaded, "model_state_dict"):
        return 2
    raise InputError("it is neither a checkpoint of fairchem 1 nor an inference checkpoint of 2")


def _of_other_line(line: int, trained: Trained, task_name: str) -> Any:
    if line == 2:
        return to_fairchem1(trained)
    from ocp_scn.fairchem.v2.checkpoint import build  # noqa: PLC0415  # only where fairchem 2 is installed

    return build(trained, task_name)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn checkpoint",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "convert",
        help="convert a checkpoint to the other line of fairchem",
        description="Convert a checkpoint to the other line of fairchem; the command finds out its line.",
        epilog=EPILOG,
    )
    command.add_argument("source", type=Path, help="checkpoint of fairchem 1, or inference checkpoint of 2")
    command.add_argument("target", type=Path, help="file to write")
    command.add_argument(
        "--task-name", default="oc20", help="name of the data set in fairchem 2 (default: %(default)s)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    command.add_argument("--trust", action="store_true", help=TRUST_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args = build_parser().parse_args(argv)
    if args.trust:
        trust()
    return status_of(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    line, trained = convert(args.source, args.target, task_name=args.task_name, overwrite=args.overwrite)
    size = sum(value.numel() for value in trained.weights.values()) / 1e6
    print(f"wrote {args.target} for fairchem-core {line}: {size:.2f} M weights")
    for name, (mean, rmsd) in trained.normalizers.items():
        print(f"  {name}: mean {mean:.6g}, rmsd {rmsd:.6g}")


if __name__ == "__main__":
    sys.exit(main())
