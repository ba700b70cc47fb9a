"""What data sets of fairchem-core 1.10 need to have, found out before a run begins."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import torch
from fairchem.core.common.registry import registry

from ocp_scn.errors import InputError, UnreadableError, cause
from ocp_scn.fairchem.files import open_lmdb, sample_count
from ocp_scn.fairchem.training_data import check_metadata
from ocp_scn.fairchem.v1.relaxations import system_name
from ocp_scn.predictions import file_name, structure_name

# What reading ends with of what is no data set, sample or checkpoint, or of classes that are not here.
UNREADABLE: tuple[type[Exception], ...] = (lmdb.Error, pickle.UnpicklingError, AssertionError, TypeError)
UNREADABLE += (EOFError, AttributeError, LookupError, RuntimeError, ValueError, ImportError)
UNREADABLE += (OSError, OverflowError)


def predicted_name(sample: Any) -> str:
    """Return a sample's id in the file of predictions."""
    fid = sample.fid if "fid" in sample else None
    return structure_name(system_name(sample), fid.item() if isinstance(fid, torch.Tensor) else fid)


def relaxed_name(sample: Any) -> str:
    """Return a sample's id in the file of relaxed structures, which also names the trajectory."""
    name = system_name(sample)
    file_name(name)
    return name


def check_samples(name: str, settings: Mapping[str, Any], id_name: str, id_of: Callable[[Any], str]) -> None:
    """Check that every sample can be read and has atoms and an id, and that none has that of another.

    Of two results with one id only one would be kept.

    Args:
        name: of the section of the configuration.
        settings: the section.
        id_name: what the id is called in messages.
        id_of: returns a sample's id.
    """
    source = f"{name}.src={settings['src']!r}"
    data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
    first: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for index in range(len(data_set)):
        try:
            sample = data_set[index]
            kinds = kinds or _id_kinds(sample)
            _check_kinds(source, index, _id_kinds(sample), kinds)
            check_fixed(source, index, sample)
            found = id_of(sample)
            _check_atoms(f"{source}: sample {index} ({id_name} {found!r})", sample)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"{source}: sample {index} cannot be read: {cause(error)}") from error
        if found in first:
            raise InputError(
                f"{source}: samples {first[found]} and {index} both have {id_name} {found!r}; "
                "results need distinct ones"
            )
        first[found] = index


def _check_atoms(name: str, sample: Any) -> None:
    if int(sample["natoms"]) == 0:
        raise InputError(f"{name} has no atoms")


def _id_kinds(sample: Any) -> dict[str, str]:
    """Return the types of a sample's ``sid`` and ``fid``, of those that it has."""
    return {name: type(sample[name]).__name__ for name in ("sid", "fid") if name in sample}


def _check_kinds(source: str, index: int, kinds: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if kinds != expected:
        raise InputError(
            f"{source}: sample {index} has ids of {kinds}, sample 0 of {expected}; fairchem cannot batch both"
        )


def check_fixed(source: str, index: int, sample: Any) -> None:
    """Check that a sample's ``fixed``, if it has any, is a tensor of an entry an atom, as fairchem needs."""
    if "fixed" not in sample:
        return
    shape, expected = getattr(sample["fixed"], "shape", None), (int(sample["natoms"]),)
    if not isinstance(sample["fixed"], torch.Tensor) or shape != expected:
        found = f"{type(sample['fixed']).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"
        raise InputError(
            f"{source}: sample {index} has a fixed that is a {found}; expected a Tensor of shape {expected} "
            "(ocp-scn data convert makes it one)"
        )


def check_data_set(
    name: str, settings: Mapping[str, Any], keys: Sequence[str], targets: Sequence[str] = ()
) -> int | None:
    """Check a data set, for ``keys`` in its first sample and ``targets`` in any; return its size.

    Other formats than LMDB are left to fairchem: their size is None.
    """
    sources = settings["src"] if isinstance(settings["src"], list) else [settings["src"]]
    if not _check_sources(name, list(map(Path, sources)), settings.get("format", "lmdb")):
        return None
    try:
        for source in map(Path, sources):
            count = 0
            for path in source.glob("*.lmdb") if source.is_dir() else [source]:
                with open_lmdb(path) as environment:
                    count += sample_count(path, environment)
            check_metadata(source, count)
        data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
        size = len(data_set)
        sample = data_set[0] if size else {}
    except UnreadableError as error:
        raise InputError(f"{name}.src: {error}") from error
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{name}.src={settings['src']!r} cannot be read: {error}") from error
    if not size:
        raise InputError(f"{name}.src={settings['src']!r} has no sample")
    missing = [key for key in [*keys, "pos", "cell", "natoms", "atomic_numbers"] if key not in sample]
    if missing:
        raise InputError(
            f"{name}.src={settings['src']!r}: sample 0 has no {missing[0]!r}; "
            f"it has {', '.join(sorted(sample.keys()))}"
        )
    check_fixed(f"{name}.src={settings['src']!r}", 0, sample)
    for target in targets:
        if not any(target in sample for sample in data_set):
            raise InputError(
                f"{name}.src={settings['src']!r}: no sample has {target!r}; "
                f"sample 0 has {', '.join(sorted(sample.keys()))}"
            )
    return size


def _check_sources(name: str, sources: Sequence[Path], kind: str) -> bool:
    """Check that a data set's files are there; return whether they are LMDB files."""
    for source in sources:
        if not source.exists():
            raise InputError(f"{name}.src={str(source)!r} does not exist")
        if "lmdb" not in kind:
            return False
        if source.is_dir() and not list(source.glob("*.lmdb")):
            raise InputError(f"{name}.src={str(source)!r} has no *.lmdb file")
    return True


def check_fits(settings: Mapping[str, Any]) -> None:
    """Check that every training sample has what fairchem fits normalizers and references to."""
    transforms = settings.get("transforms") or {}
    for key in ("normalizer", "element_references"):
        for target in ((transforms.get(key) or {}).get("fit") or {}).get("targets", []):
            data_set = registry.get_dataset_class(settings.get("format", "lmdb"))(dict(settings))
            lacking = next((index for index, sample in enumerate(data_set) if target not in sample), None)
            if lacking is not None:
                raise InputError(
                    f"dataset.train.transforms.{key}.fit: sample {lacking} has no {target!r}; "
                    "expected one in every sample, or numbers in place of fit"
                )
