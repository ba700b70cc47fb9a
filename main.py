"""fairchem's command line with this package's model registered.

python main.py --mode train --config-yml configs/s2ef/example/scn.yml --cpu
"""

import sys

from ocp_scn_cli import loading

if __name__ == "__main__":
    with loading():
        from fairchem.core.common.flags import flags

        parser = flags.get_parser()
        parser.add_argument(
            "--trust",
            action="store_true",
            help="let checkpoints and data sets run the programs that they may name (docs/security.md)",
        )
        parser.add_argument(
            "--verbose", action="store_true", help="print all that run.log has (docs/configs.md)"
        )
        parser.add_argument(
            "--finetune",
            metavar="CHECKPOINT",
            help="begin a training with the weights of a checkpoint (docs/finetuning.md)",
        )
        parser.parse_known_args()  # --help and mistakes end here, before what takes seconds to load
        from ocp_scn.fairchem.v1.launcher import main

        sys.exit(main())
