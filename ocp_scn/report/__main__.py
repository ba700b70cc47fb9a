"""python -m ocp_scn.report RUN_DIR"""

import sys

from ocp_scn.report.command import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    sys.exit(main())
