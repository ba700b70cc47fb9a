"""fairchem's command line with this package's model registered.

python main.py --mode train --config-yml configs/s2ef/example/scn.yml --cpu
"""

import signal
import sys

from fairchem.core.common.flags import flags

if __name__ == "__main__":
    flags.get_parser().parse_known_args()  # --help and mistakes end here, before what takes seconds to load
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends what only loads and checks without a traceback
    from ocp_scn.fairchem.v1.launcher import main

    sys.exit(main())
