"""Pictures of an inference checkpoint are those of fairchem 1's checkpoint with the same weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.trained import to_fairchem1
from ocp_scn.viz.__main__ import FILE, main
from tests.test_calculator import trained


def test_both_lines_checkpoints_are_drawn(tmp_path: Path) -> None:
    pictures = []
    for name, checkpoint in {"one": to_fairchem1(trained()), "two": build(trained(), "oc20")}.items():
        torch.save(checkpoint, tmp_path / f"{name}.pt")
        assert main([str(tmp_path / f"{name}.pt"), "-o", str(tmp_path / name), "--layers", "2"]) == 0
        pictures.append((tmp_path / name / FILE).read_bytes())
    assert pictures[0] == pictures[1]
