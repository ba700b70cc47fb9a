"""Pickles, read without running what they name.

A pickle may name any function, which runs when it is read. Here those are known that arrays, tensors and
plain values are made of, and nothing else is looked up.
"""

from __future__ import annotations

import io
import os
import pickle
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from importlib import import_module
from pathlib import PosixPath
from typing import Any

import numpy as np
import torch

from ocp_scn.errors import UnreadableError

# Of the environment, so that all processes of a run have it: 1 lets files run what they name.
TRUST = "OCP_SCN_TRUST"
TRUST_HELP = "let checkpoints and data sets run code (docs/security.md)"
# What damaged or foreign pickles end with.
ERRORS: tuple[type[Exception], ...] = (pickle.UnpicklingError, LookupError, AttributeError, TypeError)
ERRORS += (ValueError, EOFError, RuntimeError, OverflowError, MemoryError, AssertionError)

# Strides of 0 repeat numbers, and every copy of such a tensor takes memory.
_MOST_REPEATED = 10_000_000
_RENAMED = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}
_RENAMED["numpy._core.numeric"] = "numpy.core.numeric"
_MULTIARRAY = import_module("numpy.core.multiarray" if np.__version__ < "2" else "numpy._core.multiarray")


class RefusedError(UnreadableError, pickle.UnpicklingError):
    """A class or function that a pickle names and that is not known here.

    Attributes:
        module: where it is.
    """

    module = ""


class Graph:
    """Stands in for an object of PyTorch Geometric."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    @property
    def attributes(self) -> dict[str, Any]:
        """What the object has; releases 1 and 2 of PyTorch Geometric keep it in two places."""
        store = self.__dict__.get("_store")
        found = self.__dict__ if store is None else store.__dict__["_mapping"]
        return {name: value for name, value in found.items() if value is not None}


def trusted() -> bool:
    """Tell whether the user trusts the files that are read."""
    return os.environ.get(TRUST) == "1"


def trust() -> None:
    """Trust every file that this process and those that it starts read."""
    os.environ[TRUST] = "1"


def storage(data: bytes) -> torch.Tensor:
    """Return the numbers of a tensor in a pickle, as a flat tensor.

    torch's own function for them reads any file that torch knows, TorchScript among them.
    """
    file = io.BytesIO(data)
    magic, protocol, _, numbers, keys = [_StorageUnpickler(file).load() for _ in range(5)]
    if (magic, protocol) != (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION):
        raise pickle.UnpicklingError("a tensor's numbers are in a format that is not known")
    kind, dtype, key, _, size, view = numbers
    if kind != "storage" or not isinstance(dtype, torch.dtype) or keys != [key] or view is not None:
        raise pickle.UnpicklingError("a tensor's numbers are not those of one storage")
    content = bytearray(file.read())[8:]  # after their number
    if len(content) != size * dtype.itemsize:
        raise pickle.UnpicklingError(f"a tensor has {len(content)} bytes of {size} numbers")
    return torch.frombuffer(content, dtype=dtype) if size else torch.empty(0, dtype=dtype)


def tensor(numbers: Any, offset: int, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """Return a tensor of a `storage`, or of one that torch reads."""
    found = _tensor(numbers, offset, size, stride, *rest)
    stored = found.untyped_storage().nbytes() // found.element_size()
    if found.numel() > max(stored, _MOST_REPEATED):
        raise pickle.UnpicklingError(f"a tensor has {found.numel()} numbers, and is stored as {stored}")
    return found


def _tensor(numbers: Any, offset: int, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    if not isinstance(numbers, torch.Tensor):
        return torch._utils._rebuild_tensor_v2(numbers, offset, size, stride, *(rest or (False, {})))
    return torch.empty(0, dtype=numbers.dtype).set_(numbers.untyped_storage(), offset, size, stride)


def _array(*_: Any) -> np.ndarray:
    return np.empty(0, np.int8)  # its state, which follows in the pickle, has the rest


def _array_of_buffer(buffer: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


_DTYPES = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
}
_STORAGES |= {"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8}
_STORAGES |= {"Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8}
_PLAIN = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple)

KNOWN: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in _PLAIN},
    ("builtins", "long"): int,  # Python 2's, as in pickles of protocol 2
    ("builtins", "xrange"): range,
    ("collections", "Counter"): Counter,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("argparse", "Namespace"): Namespace,
    ("pathlib", "PosixPath"): PosixPath,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): "ndarray",  # an argument only
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _MULTIARRAY.scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _DTYPES},
    **{("torch", f"{name}Storage"): dtype for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch.storage", "_load_from_bytes"): storage,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class Unpickler(pickle.Unpickler):
    """Rebuilds what is known, by module and name, and raises `RefusedError` for everything else."""

    known: Mapping[tuple[str, str], Any] = KNOWN

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names."""
        found = self.known.get((_RENAMED.get(module, module), name))
        if found is not None:
            return found
        if module.startswith("torch_geometric."):
            return Graph
        return self.unknown(module, name)

    def unknown(self, module: str, name: str) -> Any:
        """Refuse what is not known."""
        error = RefusedError(f"refused {f'{module}.{name}'!r}, which is no part of arrays or plain values")
        error.module = module
        raise error


class _StorageUnpickler(Unpickler):
    def persistent_load(self, saved: Any) -> Any:
        """Return what a file of torch says of a storage, whose numbers follow."""
        return saved


def loads(data: bytes) -> Any:
    """Return what a pickle has."""
    return Unpickler(io.BytesIO(data)).load()
