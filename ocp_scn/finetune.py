"""Begin a training with the weights of a checkpoint.

In fairchem-core 1.10 this is "main.py --mode train --config-yml FILE --finetune CHECKPOINT", in 2 it is
"ocp-scn train --config FILE finetune=CHECKPOINT"; whatever else these take may follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ocp_scn.experiments import find
from ocp_scn.options import Parser, status_of

EPILOG = """examples:
  ocp-scn finetune checkpoint.pt --config configs/s2ef/example/finetune.yml --cpu
  ocp-scn finetune inference_ckpt.pt --config configs/fairchem2/s2ef/finetune.yaml max_epochs=5"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="ocp-scn finetune",
        description=__doc__,
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, help="of the line of fairchem that is installed")
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration of the training")
    parser.add_argument("--verbose", action="store_true", help="print all that run.log has")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for bad input)."""
    args, words = build_parser().parse_known_args(argv)
    checkpoint, config = str(args.checkpoint.absolute()), find(Path(args.config))
    if version("fairchem-core").startswith("2."):
        from ocp_scn.fairchem.v2.finetuning import launch  # noqa: PLC0415  # each where its line is installed

        return status_of(lambda: launch(checkpoint, config, words, verbose=args.verbose))
    from ocp_scn.fairchem.v1.launcher import main as launch_training  # noqa: PLC0415

    words += ["--verbose"] if args.verbose else []
    return launch_training(["--mode", "train", "--config-yml", str(config), *words], finetune=checkpoint)


if __name__ == "__main__":
    sys.exit(main())
