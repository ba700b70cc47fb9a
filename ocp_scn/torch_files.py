"""Files that torch wrote, read without running what they name, and only if they are undamaged."""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ocp_scn.errors import InputError, cause
from ocp_scn.unpickling import ERRORS, KNOWN, TRUST, RefusedError, Unpickler, trusted

log = logging.getLogger(__name__)
_ZIP = b"PK\x03\x04"
_BEFORE_ZIP = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # how files before torch 1.6 begin
_FOLDER = 0x10  # an attribute of an entry that torch's reader takes for a folder, and leaves empty
# What Python's reader of archives ends with where bits of their directory are wrong.
_DAMAGED: tuple[type[Exception], ...] = (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError)
_DAMAGED += (OverflowError, LookupError, RuntimeError)
_FOREIGN: tuple[type[Exception], ...] = (*ERRORS, ImportError, OSError)


def read(
    path: str | Path,
    device: Any = "cpu",
    *,
    more: Collection[tuple[str, str]] = (),
    stand_ins: Mapping[tuple[str, str], type] | None = None,
    mmap: bool = False,
) -> Any:
    """Return what a file of ``torch.save`` has, once its checksums are found right.

    Args:
        path: the file.
        device: where tensors go.
        more: modules and names of classes that it may have, beside those that are always known.
        stand_ins: classes to take in place of others, by their modules and names.
        mmap: leave tensors in the file until they are used.

    Raises:
        InputError: for another or a damaged file, or one with other classes, unless the user trusts it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder" if path.is_dir() else f"{path} does not exist")
    is_archive = _check(path)
    if trusted():
        log.warning(f"{path} is trusted: programs that it names are run as it is read ({TRUST}=1)")
    try:
        return torch.load(
            path,
            map_location=device,
            mmap=mmap and is_archive,
            weights_only=False,
            pickle_module=_pickle(frozenset(more), stand_ins or {}),
        )
    except RefusedError as error:
        raise InputError(
            f"{path}: {cause(error)}; for files that you trust, pass --trust or set {TRUST}=1"
        ) from error
    except _FOREIGN as error:
        raise _unreadable(path, cause(error)) from error


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not a checkpoint of fairchem, or damaged: {reason}")


def _pickle(more: Collection[tuple[str, str]], stand_ins: Mapping[tuple[str, str], Any]) -> Any:
    """Return what torch uses in place of the module ``pickle``."""
    all_known = {**KNOWN, **stand_ins}

    class WithMore(Unpickler):
        known = all_known

        def unknown(self, module: str, name: str) -> Any:
            if (module, name) in more:
                return pickle.Unpickler.find_class(self, module, name)
            return super().unknown(module, name)

    class Trusting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return stand_ins.get((module, name)) or super().find_class(module, name)

    kind = Trusting if trusted() else WithMore

    def load(file: Any, **options: Any) -> Any:
        return kind(file, **options).load()

    return SimpleNamespace(__name__="ocp_scn.unpickling", Unpickler=kind, load=load)


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Tell whether both readers find the bytes of an entry: torch compresses nothing but programs."""
    size = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
    return size and not entry.external_attr & _FOLDER


def _check(path: Path) -> bool:
    """Check a file before torch opens it, and return whether it is an archive.

    torch hands archives of TorchScript, which are programs, to another reader, and compares no checksums.
    """
    with path.open("rb") as file:
        start = file.read(len(_BEFORE_ZIP))
    if start == _BEFORE_ZIP:
        return False
    if not start.startswith(_ZIP):
        raise _unreadable(path, "it is no file of torch" if start else "it is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            plain = all(map(_is_plain, entries))
            damaged = archive.testzip() if plain else None
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except _DAMAGED as error:
        raise _unreadable(path, f"its archive is cut short or damaged ({cause(error)})") from error
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise InputError(f"{path} is a program of TorchScript, not a checkpoint")
    if damaged is not None:
        raise _unreadable(path, f"the checksum of {damaged} is wrong")
    # The content that torch reads has to be the one whose checksums are right.
    names = {entry.filename.partition("/")[2] for entry in entries}
    if not plain or len(names) != len(entries) or names != set(records):
        raise _unreadable(path, "its archive is not one of torch")
    return True
