"""fairchem's command line with this package's model registered.

python main.py --mode train --config-yml configs/s2ef/example/scn.yml --cpu
"""

import sys

from ocp_scn.fairchem.launcher import main

if __name__ == "__main__":
    sys.exit(main())
