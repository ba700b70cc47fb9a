"""The examples of docs/ase.md run one after the other, as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from ocp_scn import SCN, SCNConfig
from ocp_scn.trained import Trained, to_fairchem1
from tests import HANG
from tests.test_calculator import DERIVED, SETTINGS, SMOOTH

PAGE = Path(__file__).parents[1] / "docs/ase.md"


def write_checkpoint(path: Path, settings: dict) -> None:
    """Write a network as it is drawn, whose forces are small enough for dynamics."""
    torch.manual_seed(0)
    model = SCN(SCNConfig.from_settings(settings))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    torch.save(to_fairchem1(Trained(settings, weights, weights, DERIVED)), path)


def test_the_examples_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)
    write_checkpoint(tmp_path / "smooth.pt", {**SETTINGS, **SMOOTH})
    examples = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 7
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" eV\n") == 2
    assert done.stdout.count(" 1/cm\n") == 1
