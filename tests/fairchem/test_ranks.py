"""What a run says of a rank that ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from ocp_scn.fairchem.ranks import cause_in_rank

TRACEBACK = (
    "Traceback (most recent call last): ...\nocp_scn.errors.InputError: step 2: the loss is not finite"
)


@pytest.mark.parametrize(
    ("exitcode", "written", "said"),
    [
        (1, TRACEBACK, "step 2: the loss is not finite"),
        (-6, TRACEBACK, "step 2: the loss is not finite"),  # gloo aborts a process that has lost another
        (-6, None, "rank 0 was killed by SIGABRT"),
        (-9, None, "rank 0 was killed by SIGKILL, as for want of memory"),
        (1, "Traceback (most recent call last): ...\nKeyError: 3", None),
    ],
)
def test_the_cause_in_a_rank(tmp_path: Path, exitcode: int, written: str | None, said: str | None) -> None:
    """An error of ours that the rank could write down, else the signal; other errors keep their traceback."""
    file = tmp_path / "error.json"
    if written:
        message = {"message": written, "extraInfo": {"timestamp": "1"}}
        file.write_text(json.dumps({"message": message}))
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=exitcode, error_file=str(file))
    assert cause_in_rank(ChildFailedError("train", {0: failure})) == said
