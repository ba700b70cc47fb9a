"""Files of torch.save are read if every byte that counts is right, and run nothing."""

from __future__ import annotations

import logging
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ocp_scn.errors import InputError
from ocp_scn.torch_files import read
from ocp_scn.unpickling import TRUST
from tests.malice import Evil, torchscript

CONTENT: dict[str, Any] = {
    "state_dict": torch.nn.Linear(3, 2).state_dict(),
    "config": {"model": {"name": "scn", "lmax": 6}, "lr": 0.1},
    "step": 7,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def is_content(found: Any) -> bool:
    plain = {name: found[name] == CONTENT[name] for name in ("config", "step")}
    weights, expected = found["state_dict"], CONTENT["state_dict"]
    equal = [torch.equal(weights[name], expected[name]) for name in expected]
    return all(plain.values()) and list(weights) == list(expected) and all(equal) and len(found) == 3


def refused(path: Path, **options: Any) -> str:
    """Return the line that refuses a file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_is_read_as_it_was_written(checkpoint: Path, mmap: bool) -> None:
    assert is_content(read(checkpoint, mmap=mmap))


def test_a_file_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert is_content(read(tmp_path / "old.pt", mmap=True))
    (tmp_path / "torn.pt").write_bytes((tmp_path / "old.pt").read_bytes()[:-30])
    refused(tmp_path / "torn.pt")


def test_no_flipped_bit_changes_what_is_read(checkpoint: Path) -> None:
    """A bit of every byte: in numbers, names, directory and padding."""
    whole, drawn, outcomes = checkpoint.read_bytes(), random.Random(0), []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << drawn.randrange(8)
        checkpoint.write_bytes(damaged)
        try:
            assert is_content(read(checkpoint)), f"a flipped bit of byte {place} changes the content"
            outcomes.append("same")
        except InputError as error:
            assert str(error).startswith(str(checkpoint))
            outcomes.append("refused")
    assert set(outcomes) == {"same", "refused"}


def test_files_that_are_cut_short_or_none_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    for size in range(0, len(whole), 37):
        checkpoint.write_bytes(whole[:size])
        assert "is not a checkpoint of fairchem, or damaged: " in refused(checkpoint)
    assert "does not exist" in refused(tmp_path / "nowhere.pt")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "text.pt").write_text("text")
    assert "it is no file of torch" in refused(tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "text")
    refused(tmp_path / "other.zip")


@pytest.mark.parametrize("archive", [True, False])
def test_what_a_file_names_is_run_only_if_it_is_trusted(
    tmp_path: Path, archive: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save({"state_dict": Evil(marker)}, path, _use_new_zipfile_serialization=archive)
    assert "refused 'posix.mkdir'" in refused(path)
    assert not marker.exists()
    monkeypatch.setenv(TRUST, "1")
    with caplog.at_level(logging.WARNING):
        read(path)
    assert marker.exists()
    assert f"{path} is trusted" in caplog.text


def test_classes_are_named_one_by_one(tmp_path: Path) -> None:
    torch.save(CONTENT | {"layer": torch.nn.Identity()}, tmp_path / "layer.pt")
    assert "refused 'torch.nn.modules.linear.Identity'" in refused(tmp_path / "layer.pt")
    found = read(tmp_path / "layer.pt", more={("torch.nn.modules.linear", "Identity")})
    assert isinstance(found["layer"], torch.nn.Identity)


@pytest.mark.parametrize("trusted", ["0", "1"])
def test_programs_are_never_run(
    checkpoint: Path, tmp_path: Path, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an archive of TorchScript, nor a checkpoint that was made one by what torch tells it from."""
    monkeypatch.setenv(TRUST, trusted)
    (tmp_path / "program.pt").write_bytes(torchscript(tmp_path / "marker"))
    assert "is a program of TorchScript" in refused(tmp_path / "program.pt")
    assert not (tmp_path / "marker").exists()
    with zipfile.ZipFile(checkpoint, "a") as archive:
        archive.writestr("checkpoint/constants.pkl", b"")
    assert "is a program of TorchScript" in refused(checkpoint)


def test_an_archive_that_has_a_file_twice_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Of which torch and the check of sums could take one each."""
    shutil.copy(checkpoint, tmp_path / "twice.pt")
    with zipfile.ZipFile(tmp_path / "twice.pt", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("checkpoint/data.pkl", b"")
    refused(tmp_path / "twice.pt")
