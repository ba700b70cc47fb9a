"""Constant tables that follow a module through ``.to()``, ``.double()`` and ``.half()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` torch's default within the block, for libraries that mix their input with it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class TableModule(nn.Module):
    """A module with tables that depend on its settings only.

    A table is a non-persistent buffer, so it is never written to a checkpoint, and its float64
    original is kept beside it: a model built in float32 and turned into float64 afterwards
    computes with tables that are exact in float64, not with rounded ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[str, Tensor] = {}

    def register_table(self, name: str, values: Tensor) -> None:
        """Register ``values`` (any shape, float64) as the buffer ``name``, in the default dtype."""
        if values.dtype != torch.float64:
            raise ValueError(f"table {name!r} has dtype {values.dtype}; expected torch.float64")
        self._originals[name] = values
        self.register_buffer(name, values.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TableModule:
        super()._apply(fn, recurse)
        for name, values in self._originals.items():
            moved = getattr(self, name)
            setattr(self, name, values.to(device=moved.device, dtype=moved.dtype))
        return self
