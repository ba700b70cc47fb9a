"""``ocp-scn`` where fairchem-core 2 is installed: its configurations run, mistakes end in one line."""

from __future__ import annotations

import pytest

from ocp_scn_cli import main
from tests.commands.conftest import ROOT

CONFIG = str(ROOT / "configs/fairchem2/s2ef/example.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--config", CONFIG, "--cpu"], "--cpu is an option of fairchem 1; with fairchem 2 use"),
        (["train", "--config", CONFIG, "--max_epoch=1"], "Could not override 'max_epoch'"),
        (["train", "--config", CONFIG, "+nonsense=1"], "Found unused keys in the config: {'nonsense'}"),
        (
            ["train", "--config", CONFIG, "nonsense"],
            "argument 'nonsense' not understood; settings are written",
        ),
        (["relax", "--config", CONFIG], "relax needs fairchem-core 1.10; in 2, relax with ASE"),
        (["train", "--config", str(ROOT / "configs/s2ef/example/scn.yml")], "is for fairchem-core 1, and"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capfd):
    assert main(words) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
