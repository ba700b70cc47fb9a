"""fairchem's command line with this package's model registered.

python main.py --mode train --config-yml configs/s2ef/example/scn.yml --cpu
"""

import signal
import sys

from fairchem.core.common.flags import flags

if __name__ == "__main__":
    parser = flags.get_parser()
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let checkpoints and data sets run the programs that they may name (docs/security.md)",
    )
    parser.add_argument("--verbose", action="store_true", help="print all that run.log has (docs/configs.md)")
    parser.add_argument(
        "--finetune",
        metavar="CHECKPOINT",
        help="begin a training with the weights of a checkpoint (docs/finetuning.md)",
    )
    parser.parse_known_args()  # --help and mistakes end here, before what takes seconds to load
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends what only loads and checks without a traceback
    from ocp_scn.fairchem.v1.launcher import main

    sys.exit(main())
