"""What data sets say of their structures, and which shards of them are lost."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from ocp_scn.errors import InputError
from ocp_scn.predictions import shard_bounds
from ocp_scn.submission.structures import describe_missing, find_data_sets, lost_shards, read_structures
from tests.samples import write_lmdb


def test_structures_in_any_order(data_sets):
    structures = data_sets["ood_cat"]
    order = np.random.default_rng(0).permutation(len(structures.ids))
    turned = structures.of(structures.ids[order])
    blocks = np.split(structures.fixed, np.cumsum(structures.natoms)[:-1])
    assert np.array_equal(turned.natoms, structures.natoms[order])
    assert np.array_equal(turned.fixed, np.concatenate([blocks[k] for k in order]))
    assert np.array_equal(turned.free, [(~blocks[k]).sum() for k in order])
    assert structures.free[1] == 0


def test_ids_are_those_of_fairchems_predictions(tmp_path):
    """System and frame; the system alone where there are no frames; numbers also in tensors."""
    fixed = torch.tensor([0, 1])
    samples = [
        Data(sid=7, fid=3, natoms=2, fixed=fixed),
        Data(sid=torch.tensor(7), fid=torch.tensor(4), natoms=torch.tensor(2), fixed=fixed),
        Data(sid="random8", natoms=2, fixed=fixed.float()),
    ]
    write_lmdb(tmp_path, samples)
    structures = read_structures(tmp_path)
    assert structures.ids.tolist() == ["7_3", "7_4", "random8"]
    assert structures.fixed.tolist() == [False, True] * 3


@pytest.mark.parametrize("names", [("test_id", "test_"), ("id", ""), ("test", "test_")])
def test_data_sets_of_a_folder(tmp_path, names):
    for split in (names[0], *(f"{names[1]}{name}" for name in ("ood_ads", "ood_cat", "ood_both"))):
        (tmp_path / split).mkdir()
    assert find_data_sets([str(tmp_path)])["id"] == tmp_path / names[0]
    (tmp_path / "elsewhere").mkdir()
    found = find_data_sets([str(tmp_path), f"ood_cat={tmp_path / 'elsewhere'}"])
    assert found["ood_cat"] == tmp_path / "elsewhere"
    with pytest.raises(InputError, match=r"ood_cat=/nowhere does not exist"):
        find_data_sets([str(tmp_path), "ood_cat=/nowhere"])
    (tmp_path / f"{names[1]}ood_both").rmdir()
    with pytest.raises(InputError, match=r"has no data set 'test_ood_both' or 'ood_both'"):
        find_data_sets([str(tmp_path)])


def test_unreadable_data_sets(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.lmdb").write_text("text")
    for name in ("empty", "text.lmdb"):
        with pytest.raises(InputError, match=rf"{name}' cannot be read"):
            read_structures(tmp_path / name)
    write_lmdb(tmp_path / "bare", [Data(natoms=1, sid=1)])
    with pytest.raises(InputError, match=r"sample 0 has no 'fixed' or no 'sid'"):
        read_structures(tmp_path / "bare")


def test_doubled_ids_are_refused(tmp_path):
    """Of what is written for them, half would be scored against the other structure."""
    fixed = torch.tensor([0, 1])
    write_lmdb(tmp_path, [Data(sid=7, fid=fid, natoms=2, fixed=fixed) for fid in (3, 4, 3, "4")])
    with pytest.raises(InputError, match=r"2 ids come more than once, '7_3', '7_4'"):
        read_structures(tmp_path)


@pytest.mark.parametrize("fixed", [[0, 0, 1], np.array([[0], [0], [1]]), torch.tensor([2]), [2]])
def test_fixed_atoms_in_every_form(tmp_path, fixed):
    write_lmdb(tmp_path, [Data(sid=7, natoms=3, fixed=fixed)])
    assert read_structures(tmp_path).fixed.tolist() == [False, False, True]


def test_fixed_atoms_that_there_are_not(tmp_path):
    write_lmdb(tmp_path, [Data(sid=7, natoms=3, fixed=[3, 4])])
    with pytest.raises(InputError, match=r"sample 0 has fixed=\[3, 4\] of 3 atoms; expected a 0 or 1"):
        read_structures(tmp_path)


def test_data_sets_of_fairchem_2_need_its_packages(tmp_path, monkeypatch):
    """What is missing is named."""
    (tmp_path / "data.0000.aselmdb").touch()
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    monkeypatch.delitem(sys.modules, "ocp_scn.data.aselmdb", raising=False)
    with pytest.raises(InputError, match=r"data.0000.aselmdb' needs ase-db-backends, which comes with"):
        read_structures(tmp_path)


@given(st.data())
def test_lost_shards_are_found(data):
    """What is found explains just the missing samples; it may be of other shards than were lost."""
    size = data.draw(st.integers(2, 60))
    total = data.draw(st.integers(2, size))
    lost = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=total - 1)))
    bounds = shard_bounds(size, total)
    missing = np.concatenate([np.arange(bounds[k], bounds[k + 1]) for k in lost])
    found = lost_shards(missing, size, total - len(lost))
    assert found is not None
    again = shard_bounds(size, found[0])
    assert np.array_equal(missing, np.concatenate([np.arange(again[k], again[k + 1]) for k in found[1]]))
    assert found[0] - len(found[1]) == total - len(lost)


def test_missing_structures_that_are_no_shards(data_sets):
    structures = data_sets["id"]
    assert describe_missing(structures.ids, structures, 3) is None
    text = describe_missing(np.delete(structures.ids, [3, 8]), structures, 2)
    assert text == "2 of 12 structures are missing, '1_1', '4_0' (samples 3 to 8 of the data set)"
