"""A sample of the hostile cases, and the limits and the judge that all of them rely on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ocp_scn.config import SCNConfig
from tests import HANG
from tests.hostile import damages, files
from tests.hostile.networks import Neighbors, graph_fault
from tests.hostile.outcomes import OUTCOMES, Verdict, attempt, under_test, verdict_of
from tests.hostile.run import BLOCK, Result, table, write_page

ROOT = Path(__file__).parents[2]


def endless() -> None:
    while True:
        pass


def greedy() -> int:
    return len(np.ones(3 << 25, dtype=np.uint8))


def too_greedy() -> int:
    return len(np.ones(1 << 40, dtype=np.uint8))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrong() -> None:
    raise KeyError("no refusal")


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda: None, "correct"),
        (endless, "hang"),
        (greedy, "memory"),
        (too_greedy, "memory"),
        (killed, "died"),
        (wrong, "traceback"),
    ],
)
def test_outcomes(work, outcome):
    """Each end of a case is told from the others, and none is that of this process."""

    def judge() -> Verdict:
        try:
            with under_test():
                work()
        except Exception as error:  # as judges do
            return verdict_of(error)
        return Verdict("correct")

    assert attempt(judge, seconds=3, memory=1 << 26).outcome == outcome


def test_time_and_memory_of_the_judge_are_its_own():
    def judge() -> Verdict:
        with under_test():
            pass
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass
        greedy()
        return Verdict("correct")

    assert attempt(judge, seconds=0.5, memory=1 << 26).outcome == "correct"


KEPT = """
import numpy as np
from ocp_scn.allocator import keep_freed_memory
from tests.hostile.outcomes import Verdict, attempt, under_test

def judge():
    with under_test():
        np.ones(3 << 25, dtype=np.uint8)
    return Verdict("correct")

keep_freed_memory()
freed = [np.ones(1 << 24, dtype=np.uint8) for _ in range(12)]
del freed
print(attempt(judge, memory=1 << 26).outcome)
"""


def test_memory_that_was_freed_before_hides_nothing():
    """A process that keeps freed memory for its next tensors sees the same growth as one that does not."""
    said = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, timeout=HANG
    ).stdout
    assert said == "memory\n"


# An atom with neighbours at 1, 2, 3 and 4.9999 Å.
RIGHT = Neighbors(
    np.zeros(4, dtype=int), np.arange(1, 5), np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [4.9999, 0, 0]])
)


def chosen(*edges: int) -> Neighbors:
    return Neighbors(*(values[list(edges)] for values in RIGHT))


def test_graphs_are_judged():
    """Edges that lack, that are too many, that are no pairs, or that are not the nearest are found."""

    def fault(edges: Neighbors, cap: int = 2) -> str | None:
        config = SCNConfig(otf_graph=True, cutoff=5.0, max_num_neighbors=cap)
        return graph_fault(edges, RIGHT, config, 5, margin=1e-3, tolerance=1e-6)

    assert fault(chosen(0, 1)) is None
    assert "not the nearest" in fault(chosen(0, 2))
    assert "has 1 edges" in fault(chosen(0))
    assert "has 3 edges" in fault(chosen(0, 1, 2))
    assert "of no pair" in fault(chosen(0, 1)._replace(vec=RIGHT.vec[:2] + 1e-5))
    assert fault(chosen(0, 1, 2), -1) is None  # the last is as far as the cutoff, rounding aside
    assert fault(chosen(0, 1, 2, 3), -1) is None
    assert "has 2 edges" in fault(chosen(0, 1), -1)


def test_malicious_files_run_code(tmp_path: Path):
    """The pickles and scripts do what they are made for where a reader lets them."""
    for way in range(3):
        pickle.loads(pickle.dumps(damages.Malicious(tmp_path / str(way), way)))
        assert (tmp_path / str(way)).exists()
    packed = damages.script(tmp_path / "script")
    assert not (tmp_path / "script").exists()
    (tmp_path / "a.pt").write_bytes(packed)
    torch.jit.load(tmp_path / "a.pt")
    assert (tmp_path / "script").exists()


def test_every_damage_leaves_a_file(tmp_path: Path):
    """Damages apply to the files that they are listed for; bombs, which are large, are left out."""
    for number, case in enumerate(files.cases()):
        if case.what == "a bomb":
            continue
        folder = tmp_path / str(number)
        good = files.make(case, tmp_path / "good")
        (folder / case.kind.file).parent.mkdir(parents=True)
        content = (good / case.kind.file).read_bytes()
        path = folder / case.kind.file
        path.write_bytes(content)
        case.damage(path, np.random.default_rng(0), folder / "marker")
        assert path.is_dir() or path.read_bytes() != content, (case.name, case.what)
        assert not (folder / "marker").exists()


def test_page(tmp_path: Path):
    """The command replaces the block in the page, and nothing else; the page has the block."""
    results = [Result("file-0", "a", "", Verdict("refused")), Result("file-1", "b", "", Verdict("code"))]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- counts -->\nold\n<!-- end of counts -->\nafter\n")
    write_page(page, table("files", results))
    text = page.read_text()
    assert text.startswith("before\n<!-- counts -->\n| files |")
    assert text.endswith("<!-- end of counts -->\nafter\n")
    assert "old" not in text
    assert "**all 2**" in text
    ours = (ROOT / "docs/reliability.md").read_text()
    assert BLOCK.search(ours)
    assert all(f"| {outcome} | {text} |" in ours for outcome, text in OUTCOMES.items())
    with pytest.raises(ValueError, match="no block"):
        page.write_text("")
        write_page(page, "")


@pytest.mark.slow
def test_sample():
    """A part of what ``make test-hostile`` tries: everything is right, or refused in one line."""
    words = [sys.executable, "-m", "tests.hostile", "--structures", "96", "--files", "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
