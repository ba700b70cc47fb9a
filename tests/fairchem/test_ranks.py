"""What a run says of a rank that ended."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import elastic_launch

from ocp_scn.fairchem.ranks import cause_in_rank, launch_config

USUAL_PORT = 29400  # torch's, where none is given; old versions have no name for it
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


def test_ranks_meet_though_the_usual_port_is_taken() -> None:
    """By another run, say, whose ranks they would join."""
    with socket.socket() as other:
        with suppress(OSError):  # where another process has it, that does as well
            other.bind(("localhost", USUAL_PORT))
            other.listen()
        settings = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "rdzv_backend": "c10d"}
        found = elastic_launch(launch_config(**settings, max_restarts=0), os.getpid)()
    assert len(set(found.values())) == 2
