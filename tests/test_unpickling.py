"""Pickles are read as pickle reads them where they have arrays and plain values, and run nothing."""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ocp_scn.unpickling import RefusedError, loads
from tests.malice import Evil, Tensor, torchscript

NUMBERS = torch.arange(24).reshape(2, 3, 4)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
DTYPES += (torch.int8, torch.uint8, torch.bool)
VALUES: dict[str, Any] = {
    "tensors": [NUMBERS.to(dtype) for dtype in DTYPES],
    "views": [NUMBERS[1], NUMBERS[:, ::2, 1:], NUMBERS.permute(2, 0, 1), NUMBERS[0, 0, 0], NUMBERS[:0]],
    "arrays": [NUMBERS.numpy(), NUMBERS.double().numpy().T, np.zeros(0), np.array(3), np.array(["a", "bc"])],
    "objects": np.array([None, 1, "a"], dtype=object),
    "scalars": [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("a"), np.dtype("f8"), torch.float16],
    "plain": [None, True, 2, 10**30, 0.5, 1j, "a", b"\xff", b"", (1,), {1}, frozenset({2}), range(3)],
    "containers": [OrderedDict(a=1), defaultdict(list, a=[1]), Counter("aab"), bytearray(b"ab"), {"a": {}}],
    "others": [torch.Size([2, 3]), torch.device("cpu"), Namespace(a=1), Path("/a/b"), slice(1, 2)],
}


def same(found: Any, expected: Any) -> bool:
    """Compare type, precision and value."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", VALUES)
def test_arrays_and_plain_values_are_those_of_pickle(name: str, protocol: int) -> None:
    assert same(loads(pickle.dumps(VALUES[name], protocol=protocol)), VALUES[name])


def places(evil: Any) -> list[Any]:
    """Return containers of something."""
    return [
        evil,
        [evil],
        {"pos": evil},
        {evil: 1},
        OrderedDict(a=(evil,)),
        np.array([evil]),
        Namespace(a=evil),
    ]


@pytest.mark.parametrize("place", range(7))
def test_what_a_pickle_names_is_not_run(place: int, tmp_path: Path) -> None:
    data = pickle.dumps(places(Evil(tmp_path / "marker"))[place], protocol=4)
    with pytest.raises(RefusedError, match=r"refused 'posix\.mkdir'"):
        loads(data)
    assert not (tmp_path / "marker").exists()
    pickle.loads(data)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.jit", "load"),
        ("numpy", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "UntypedStorage.from_file"),
        ("numpy.core.multiarray", "_reconstruct.__class__"),
        ("ocp_scn.unpickling", "os.system"),
    ],
)
def test_nothing_else_is_looked_up(module: str, name: str) -> None:
    """Not by the path of an attribute either."""
    text = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    with pytest.raises(RefusedError, match=f"refused '{module}.{name}'"):
        loads(b"\x80\x04" + b"".join(text) + b"\x93.")


def test_a_program_in_the_place_of_numbers_is_not_run(tmp_path: Path) -> None:
    """torch 2.4 gives an archive of TorchScript that stands for a tensor's numbers to another reader."""
    archive = torchscript(tmp_path / "marker")
    with pytest.raises(pickle.UnpicklingError):
        loads(pickle.dumps({"pos": Tensor(archive)}))
    assert not (tmp_path / "marker").exists()
    torch.jit.load(io.BytesIO(archive))
    assert (tmp_path / "marker").exists()


def test_numbers_that_are_cut_short_or_too_few_are_refused() -> None:
    file = io.BytesIO()
    torch.save(torch.zeros(1).untyped_storage(), file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    torch.save(torch.zeros(1)[:0].storage(), few := io.BytesIO(), _use_new_zipfile_serialization=False)
    for content in (whole[:-1], whole[:40], b"", whole + b"1", few.getvalue()):
        with pytest.raises((pickle.UnpicklingError, EOFError, RuntimeError, ValueError)):
            loads(pickle.dumps(Tensor(content)))
