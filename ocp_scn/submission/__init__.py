"""Files for the leaderboards of OC20: written from predictions and relaxations, and checked."""

from ocp_scn.submission.check import check_file
from ocp_scn.submission.write import write_file

__all__ = ["check_file", "write_file"]
