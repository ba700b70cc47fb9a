"""Counts of operator calls: all that are no views, and those that make the host wait for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators of torch whose result is on the host, or has a size that only the GPU knows. An index with a mask
# is one more. Most copies between devices are not to be seen on a CPU: of them count ``cpu()``, ``tolist()``,
# ``to("cpu", copy=True)``, and ``tensor(..., device=...)`` of the host's numbers.
WAITS = {
    "_local_scalar_dense": "a number for the host: item(), bool(), int()",
    "nonzero": "the size of the result",
    "masked_select": "the size of the result",
    "repeat_interleave.Tensor": "the size of the result, unless output_size is given",
    "bincount": "the largest value is the size of the result",
    "_unique": "the size of the result",
    "_unique2": "the size of the result",
    "unique_dim": "the size of the result",
    "unique_consecutive": "the size of the result",
    "equal": "a truth value for the host",
    "_linalg_check_errors": "whether inv() and others met a singular matrix",
    "_linalg_svd": "whether it converged",
    "linalg_pinv": "whether its singular values converged",
    "_linalg_eigh": "whether it converged",
    "scalar_tensor": "a number of the host's that torch.where() copies, which waits",
}
# A view by another name: of a result that nobody else has.
_VIEWS = {"_unsafe_view"}


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that are called, by name, and the bytes of the new tensors they return.

    One of the package's operators counts once, whatever it calls. Views do not count, nor does what has no
    tensor.

    Attributes:
        calls: by name of the operator.
        waits: those among them that make a host wait, and copies between devices.
        bytes: of new tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _is_view(func) or not _tensors((args, kwargs, out)):
            return out
        name = func._overloadpacket.__name__
        self.calls[name] += 1
        self.waits[name] += _waits(func, args, kwargs or {}, out)
        known = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        new = [t for t in _tensors(out) if t.untyped_storage()._cdata not in known]
        self.bytes += sum(t.untyped_storage().nbytes() for t in new)
        return out


class _CopyCounter(TorchFunctionMode):
    """Counts copies that are no operators on a CPU."""

    def __init__(self, waits: Counter[str]) -> None:
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        to_device = func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None
        self.waits[func.__name__] += to_device or func in (Tensor.tolist, Tensor.cpu)
        return func(*args, **kwargs)


@contextmanager
def counted() -> Iterator[OperatorCounter]:
    """Count what is called within the block."""
    counter = OperatorCounter()
    with _CopyCounter(counter.waits), counter:
        yield counter


def _is_view(func: Any) -> bool:
    """Whether an operator returns a view of what it is given, and changes nothing."""
    returns = [r.alias_info for r in func._schema.returns]
    alias = any(info is not None and not info.is_write for info in returns)
    return func._overloadpacket.__name__ in _VIEWS or (alias and not func._schema.is_mutable)


def _waits(func: Any, args: Any, kwargs: Any, out: Any) -> bool:
    name, overload = func._overloadpacket.__name__, func._overloadname
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in ("index", "index_put", "index_put_"):
        return any(t.dtype in (torch.bool, torch.uint8) for t in args[1] if isinstance(t, Tensor))
    if name == "_to_copy":  # with a device and no other dtype, it was for the copy
        return kwargs.get("device") is not None and out.dtype == args[0].dtype
    return name in WAITS or f"{name}.{overload}" in WAITS


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
