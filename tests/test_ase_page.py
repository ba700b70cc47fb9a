"""The examples of docs/ase.md run one after the other, as a reader would run them, and that of README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from ase.build import fcc111

from ocp_scn import SCN, SCNConfig
from ocp_scn.trained import Trained, to_fairchem1
from tests import HANG
from tests.test_calculator import DERIVED, SETTINGS, SMOOTH

ROOT = Path(__file__).parents[1]


def write_checkpoint(path: Path, settings: dict) -> None:
    """Write a network as it is drawn, whose forces are small enough for dynamics."""
    torch.manual_seed(0)
    model = SCN(SCNConfig.from_settings(settings))
    weights = {name: value.detach() for name, value in model.named_parameters()}
    torch.save(to_fairchem1(Trained(settings, weights, weights, DERIVED)), path)


def examples(page: str) -> list[str]:
    return re.findall(r"^```py\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    (program,) = examples("README.md")
    (path,) = re.findall(r'SCNCalculator\("(.*)"\)', program)
    (tmp_path / path).parent.mkdir(parents=True)
    write_checkpoint(tmp_path / path, SETTINGS)
    fcc111("Cu", (2, 2, 3), vacuum=8.0, periodic=True).write(tmp_path / "slab.xyz")
    assert run(program, tmp_path).count("[") == 13  # a matrix of twelve rows


def test_the_examples_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint.pt", SETTINGS)
    write_checkpoint(tmp_path / "smooth.pt", {**SETTINGS, **SMOOTH})
    found = examples("docs/ase.md")
    assert len(found) == 7
    printed = run("\n".join(found), tmp_path)
    assert printed.count(" eV\n") == 2
    assert printed.count(" 1/cm\n") == 1
