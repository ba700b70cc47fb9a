"""Shards of a data set, as the trainers open it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fairchem.core.common.registry import registry
from fairchem.core.datasets import create_dataset
from torch.utils.data import DataLoader
from torch_geometric.data import Data

import ocp_scn  # noqa: F401  # registers the data set
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.data_checks import check_data_set
from ocp_scn.fairchem.v1.lmdb import LmdbWriter
from ocp_scn.fairchem.v1.loading import reopen_databases
from ocp_scn.predictions import shard_bounds
from tests.samples import write_lmdb
from tests.test_npz import with_header

SIZES = (4, 0, 7, 1)  # samples of each file


@pytest.fixture(params=["file", "files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A data set of one file, and one of several, one of them empty; both with ``metadata.npz``."""
    sizes = [sid + 1 for sid in range(sum(SIZES))]
    samples = [Data(sid=n - 1, natoms=n, atomic_numbers=torch.ones(n)) for n in sizes]
    if request.param == "file":
        write_lmdb(tmp_path / "one", samples)
        return {"src": str(tmp_path / "one/data.lmdb")}
    (tmp_path / "several").mkdir()
    for number, stop in enumerate(np.cumsum(SIZES)):
        with LmdbWriter(tmp_path / f"{number}") as writer:
            for sample in samples[stop - SIZES[number] : stop]:
                writer.add(sample)
        (tmp_path / f"{number}/data.lmdb").rename(tmp_path / f"several/data.{number}.lmdb")
    np.savez(tmp_path / "several/metadata.npz", natoms=np.arange(1, sum(SIZES) + 1))
    return {"src": str(tmp_path / "several")}


@pytest.mark.parametrize("total", [1, 2, 5, 12])
@pytest.mark.parametrize("shuffled", [True, False])
def test_shards_are_the_data_set_in_parts(source, total, shuffled):
    """Every sample is in one shard, and a shard knows its samples' sizes."""
    order = {} if shuffled else {"no_shuffle": True}
    found = []
    for shard in range(total):
        part = create_dataset({**source, "shard": shard, "total_shards": total, **order}, "test")
        sids = [part[index].sid for index in range(len(part))]
        sizes = [part.get_metadata("natoms", index) for index in range(len(part))]
        assert sizes == [sid + 1 for sid in sids]
        assert abs(len(part) - sum(SIZES) / total) < 1
        found += sids if not shuffled else sorted(sids)
    assert found == list(range(sum(SIZES)))


def test_without_shards_it_is_fairchems(source):
    """All samples, and as relaxations open it."""
    data_set = registry.get_dataset_class("lmdb")(source)
    assert [sample.sid for sample in data_set] == list(range(sum(SIZES)))
    part = registry.get_dataset_class("lmdb")({**source, "shard": 1, "total_shards": 4})
    assert [sample.sid for sample in part] == [3, 4, 5]


def test_processes_that_are_no_forks_get_the_data_set(source):
    """As on macOS: a pickled one opens its files itself, here a second time in one process."""
    data_set = registry.get_dataset_class("lmdb")({**source, "shard": 1, "total_shards": 4})
    sent = pickle.dumps(data_set)
    assert [sample.sid for sample in pickle.loads(sent)] == [sample.sid for sample in data_set] == [3, 4, 5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shard": 3, "total_shards": 3}, r"shard=3 of total_shards=3; expected 0 to 2"),
        ({"shard": -1, "total_shards": 3}, r"shard=-1 of"),
        ({"shard": "1", "total_shards": 3}, r"shard='1' of"),
        ({"shard": 3}, r"total_shards=None of 12 samples; expected 1 to 12"),
        ({"total_shards": 3}, r"shard=None of"),
        ({"shard": 3, "total_shards": 13}, r"total_shards=13 of 12"),
    ],
)
def test_bad_shards_are_named(source, keys, message):
    with pytest.raises(InputError, match=message):
        create_dataset({**source, **keys}, "test")


def test_bounds_are_those_of_numpy():
    for size, total in ((12, 5), (3, 3), (1000, 7)):
        sizes = [len(part) for part in np.array_split(np.arange(size), total)]
        assert np.diff(shard_bounds(size, total)).tolist() == sizes


def test_a_file_that_is_cut_short(source):
    """Reading what is not there would end the process without a word."""
    path = Path(source["src"])
    path = path if path.is_file() else path / "data.2.lmdb"
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(InputError, match=r"data.*\.lmdb' cannot be read: it is cut short"):
        registry.get_dataset_class("lmdb")(source)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_cut_short_while_it_is_read(source, workers):
    """The line names the file and its sizes, also from a process that loads data."""
    data = registry.get_dataset_class("lmdb")(source)
    loader = DataLoader(data, num_workers=workers, collate_fn=list, worker_init_fn=reopen_databases)
    path = Path(source["src"])
    path = path if path.is_file() else path / "data.2.lmdb"
    whole = path.stat().st_size
    os.truncate(path, whole - 4096)
    expected = rf"{path.name}' was changed while it was read: it had {whole} bytes, and has {whole - 4096}"
    with pytest.raises(InputError, match=expected):
        list(loader)


def test_metadata_larger_than_their_file(source):
    """fairchem reads them without a look at their size."""
    path = Path(source["src"])
    folder = path if path.is_dir() else path.parent
    with_header(folder / "metadata.npz", (10**12,), "<i8")
    with pytest.raises(InputError, match=r"metadata\.npz: 'a' cannot be read: it says int64 of shape"):
        check_data_set("dataset.train", source, [])
