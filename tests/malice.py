"""Files that make a folder when they are read as what they pretend to be."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch


class Evil:
    """An object whose pickle makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


class _Program(torch.nn.Module):
    """A program that makes a file when its archive is read."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.marker = state[0]
        self.training = torch.from_file(self.marker, shared=True, size=8).numel() == 8

    def forward(self) -> int:
        return 0


def torchscript(marker: Path) -> bytes:
    """Return an archive of TorchScript that makes a file."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(_Program(str(marker))), file)
    return file.getvalue()


class Tensor:
    """A tensor whose numbers are these bytes, of whatever kind of file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> Any:
        layout = 0, (2,), (1,), False, OrderedDict()
        return torch._utils._rebuild_tensor_v2, (_Storage(self.content), *layout)


class _Storage(Tensor):
    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.content,)
