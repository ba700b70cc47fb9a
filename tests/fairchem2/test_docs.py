"""The pages on fairchem-core 2: their configurations exist and compose, the example runs."""

import re
import shlex

import pytest
import torch
from fairchem.core._cli import get_hydra_config_from_yaml

from ocp_scn.data.__main__ import main
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.runs import MODES
from tests.calculations import write_calculations
from tests.commands.conftest import ROOT
from tests.fairchem2.test_checkpoint import trained

PAGES = ("fairchem2.md", "leaderboard.md", "report.md", "finetuning.md", "clusters.md")
TEXT = "".join((ROOT / "docs" / name).read_text() for name in PAGES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for _, text in BLOCKS
    for line in text.replace("\\\n", " ").splitlines()
    if re.match(r"ocp-scn \w+ --config \S+\.yaml", line)
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command(words, tmp_path):
    """It names a file of this project, or one that a command writes, and overrides that the file takes."""
    _, name, _, config, *settings = words
    assert name in MODES
    if config.endswith("resume.yaml"):
        assert not settings
        return
    path = ROOT / config
    if config == "datasets/mine/train.yaml":
        source = write_calculations(tmp_path / "mine.extxyz", 12)
        path = tmp_path / "mine/train.yaml"
        assert main(["convert", str(source), str(path.parent), "--format", "aselmdb"]) == 0
    assert get_hydra_config_from_yaml(str(path), settings)["runner"]["_target_"]


def test_python_block(tmp_path, monkeypatch):
    """The example in Python runs in a folder with a checkpoint."""
    (text,) = [text for kind, text in BLOCKS if kind == "py"]
    torch.save(build(trained(), "oc20"), tmp_path / "inference_ckpt.pt")
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "example", "exec"), {})


def test_settings_in_the_text():
    """Names of settings and files that the text mentions."""
    for name in re.findall(r"configs/fairchem2/[\w/.-]+\.yaml", TEXT):
        assert (ROOT / name).is_file(), name
