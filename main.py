"""fairchem's command line with this package's model registered.

python main.py --mode train --config-yml configs/s2ef/example/scn.yml --cpu
"""

import sys

from fairchem.core.common.flags import flags

if __name__ == "__main__":
    flags.get_parser().parse_known_args()  # --help and mistakes end here, before what takes seconds to load
    from ocp_scn.fairchem.v1.launcher import main

    sys.exit(main())
