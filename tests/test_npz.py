"""npz files: what is written comes back, and none takes more memory than it has bytes for."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ocp_scn import npz
from ocp_scn.errors import InputError


def with_header(path: Path, shape: tuple[int, ...], dtype: str = "<f8", content: bytes = bytes(80)) -> Path:
    """Write an npz file whose only array says that it has another shape than its bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + content)
    return path


def test_what_is_written_comes_back(tmp_path):
    """numpy reads the file as well, and numpy's files are read."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "ids": np.array(["b", "long"]), "empty": np.zeros((0, 3))}
    npz.write_npz(tmp_path / "ours.npz", arrays.items())
    np.savez(tmp_path / "plain.npz", **arrays)
    for name in ("ours.npz", "plain.npz"):
        file, theirs = npz.Npz(tmp_path / name), np.load(tmp_path / name)
        assert file.keys == theirs.files == list(arrays)
        for key, values in arrays.items():
            np.testing.assert_array_equal(file[key], values)
            np.testing.assert_array_equal(theirs[key], values)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((10**12,), "<f8"), ((11,), "<f8"), ((9,), "<f8"), ((10**12,), "<U0"), ((-1,), "<f8")],
)
def test_a_shape_that_the_file_has_no_bytes_for(tmp_path, shape, dtype):
    path = with_header(tmp_path / "a.npz", shape, dtype)
    with pytest.raises(InputError, match=r"a\.npz: 'a' cannot be read: it says .*shape \(" + str(shape[0])):
        npz.Npz(path)["a"]
    with pytest.raises(InputError, match=r"a\.npz: 'a' cannot be read"):
        npz.check_npz(path)


def test_a_small_file_that_unpacks_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_LARGE", 1 << 16)
    npz.write_npz(tmp_path / "a.npz", [("zeros", np.zeros(1 << 17)), ("few", np.zeros(1 << 10))])
    file = npz.Npz(tmp_path / "a.npz")
    assert file["few"].shape == (1 << 10,)
    with pytest.raises(InputError, match=r"'zeros' cannot be read: its \d+ bytes unpack to 1048704"):
        file["zeros"]


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY\x01\x00", b"text"])
def test_other_files(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'a.npz'} cannot be read as npz: ")):
        npz.Npz(tmp_path / "a.npz")


def test_pickles_and_members_that_are_no_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("note.npy", b"text")
    for key, message in (
        ("a", "'a' cannot"),
        ("note", "'note' cannot"),
        ("absent", "has no 'absent'; it has a"),
    ):
        with pytest.raises(InputError, match=message):
            npz.Npz(tmp_path / "a.npz")[key]
