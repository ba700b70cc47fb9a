"""Every fault that the check knows, put into a good file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ocp_scn.arrays import value_faults
from ocp_scn.errors import InputError
from ocp_scn.submission import check_file, write_file
from ocp_scn.submission.__main__ import main
from ocp_scn.submission.archive import SPLITS
from tests.submission.conftest import STRUCTURES, Arrays

Change = Callable[[Arrays], None]


@pytest.fixture(params=["evalai", "current"])
def file_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def changed(results, data_sets, tmp_path: Path, file_format: str) -> Callable[[Change], Path]:
    """Write an S2EF file after a change to its arrays."""
    path = tmp_path / "file.npz"
    write_file(path, "s2ef", file_format, results, data_sets)

    def write(change: Change) -> Path:
        arrays = dict(np.load(path))
        change(arrays)
        np.savez_compressed(path, **arrays)
        return path

    return write


def put(key: str, index: object, value: object) -> Change:
    """Return a change of values."""

    def change(arrays: Arrays) -> None:
        arrays[key][index] = value

    return change


def cast(key: str, dtype: type) -> Change:
    """Return a change of type."""
    return lambda arrays: arrays.update({key: arrays[key].astype(dtype)})


def swap(arrays: Arrays) -> None:
    """Name two splits by each other's names."""
    for name in ("ids", "energy", "forces", "chunk_idx"):
        one, other = f"ood_ads_{name}", f"ood_cat_{name}"
        arrays[one], arrays[other] = arrays[other], arrays[one]


def drop_first(arrays: Arrays) -> None:
    """Leave out the first structure of a split, and all that belongs to it."""
    start = arrays["id_chunk_idx"][0]
    for name, values in (("ids", 1), ("energy", 1), ("forces", start)):
        arrays[f"id_{name}"] = arrays[f"id_{name}"][values:]
    arrays["id_chunk_idx"] = arrays["id_chunk_idx"][1:] - start


def double(arrays: Arrays) -> None:
    """Give two structures of a split one id."""
    arrays["id_ids"][3] = arrays["id_ids"][2]


def overflow(arrays: Arrays) -> None:
    """Save forces of a sick model in float16."""
    arrays["id_forces"][0] = 1e5
    with np.errstate(over="ignore"):
        arrays["id_forces"] = arrays["id_forces"].astype(np.float16)


FAULTS: dict[str, tuple[Change, str]] = {
    "missing": (drop_first, rf"id: 1 of {STRUCTURES} structures are missing, '0_0' \(samples 0 to 0"),
    "doubled": (double, r"id: 1 ids come more than once, '1_0'"),
    "foreign": (put("id_ids", 5, "zzz"), r"id: 1 of 12 ids are in no data set, 'zzz'"),
    "swapped": (swap, r"ood_ads: 12 of 12 ids are of split 'ood_cat', '200_0', '200_1', '201_0', \.\.\."),
    "no split": (
        lambda arrays: [arrays.pop(key) for key in list(arrays) if "ood_both" in key],
        "ood_both: no ",
    ),
    "no array": (lambda arrays: arrays.pop("id_energy"), r"id: no id_energy"),
    "nan": (put("id_energy", 4, np.nan), r"id: energy: 1 of 12 are not finite, the first of '2_0'"),
    "infinite": (put("ood_cat_forces", 0, np.inf), r"ood_cat: forces: 1 of \d+ are not finite, .* '200_0'"),
    "overflow": (overflow, r"id: forces: 1 of \d+ are beyond float16, .* '0_0'"),
    "absurd energy": (
        put("id_energy", 0, -2e4),
        r"id: energy: 1 of 12 are beyond 10000 eV, the first of '0_0'",
    ),
    "absurd force": (put("id_forces", -1, 1e4), r"id: forces: 1 of \d+ are beyond 1000 eV/Å, .* '5_1'"),
    "text": (cast("id_energy", str), r"id: energy is <U\d+ of shape .*; expected floating point"),
    "integers": (cast("id_forces", int), r"id: forces is int64 of shape"),
    "numbers as ids": (
        lambda arrays: arrays.update(id_ids=np.arange(STRUCTURES)),
        r"id: ids are int64 of shape \(12,\); expected texts",
    ),
    "too few energies": (
        lambda arrays: arrays.update(id_energy=arrays["id_energy"][1:]),
        r"id: energy is float32 of shape \(11,.*expected floating point of shape \(12,\)",
    ),
    "flat forces": (
        lambda arrays: arrays.update(id_forces=arrays["id_forces"].ravel()),
        r"id: forces is float32 of shape \(\d+,\); expected floating point of shape \(\d+, 3\)",
    ),
    "with the last": (
        lambda arrays: arrays.update(
            id_chunk_idx=np.append(arrays["id_chunk_idx"], len(arrays["id_forces"]))
        ),
        r"id: chunk_idx is int64 of shape \(12,\); expected integers of shape \(11,\)",
    ),
    "falling": (put("id_chunk_idx", 4, 0), r"id: chunk_idx falls at '2_0'; expected rising numbers from 0"),
    "beyond": (put("id_chunk_idx", -1, 999), r"id: chunk_idx ends at 999, beyond the \d+ rows of forces"),
    "shifted": (
        lambda arrays: arrays.update(id_chunk_idx=arrays["id_chunk_idx"] + 1),
        r"id: 2 structures have too few or too many rows; '0_0' has \d, for \d atoms, \d of them free",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(changed, data_sets, name):
    """The check finds what was put in, and nothing before."""
    change, message = FAULTS[name]
    assert not check_file(changed(lambda arrays: None), data_sets).faults
    faults = check_file(changed(change), data_sets).faults
    assert any(re.match(message, fault) for fault in faults), faults


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [("energy", 1e4, "10000 eV"), ("forces", 1e3, "1000 eV/Å"), ("pos", 1e4, "10000 Å")],
)
def test_limits(name, limit, text):
    """The largest number that there can be has no fault; what is larger has, of either sign."""
    shape = (2,) if name == "energy" else (2, 3)
    arrays = {"ids": np.array(["a", "b"]), name: np.full(shape, limit), "chunk_idx": np.array([1])}
    assert not value_faults(arrays)
    arrays[name].flat[-1] = -limit * 1.0001
    assert value_faults(arrays) == [f"{name}: 1 of 2 are beyond {text}, the first of 'b'"]


def test_swapped_splits_have_no_other_faults(changed, data_sets):
    faults = check_file(changed(swap), data_sets).faults
    assert [fault.split(":")[0] for fault in faults] == ["ood_ads", "ood_ads", "ood_cat", "ood_cat"]


def test_forces_on_fixed_atoms(changed, data_sets, file_format):
    """Forces of free atoms alone have no place for them; there they are rows too many."""
    structures = data_sets["ood_ads"]
    first = structures.of(np.sort(structures.ids))
    atom = int(np.argmax(first.fixed))
    if file_format == "evalai":
        change = lambda arrays: arrays.update(  # noqa: E731
            ood_ads_forces=np.insert(arrays["ood_ads_forces"], 0, 0.1, axis=0),
            ood_ads_chunk_idx=arrays["ood_ads_chunk_idx"] + 1,
        )
        expected = "ood_ads: 1 structures have too few or too many rows; '100_0' has"
    else:
        change = put("ood_ads_forces", (atom, 2), 1e-6)
        expected = "ood_ads: 1 fixed atoms have forces, the first in '100_"
    (fault,) = check_file(changed(change), data_sets).faults
    assert fault.startswith(expected)


def test_formats_are_told_apart(changed, data_sets, file_format):
    path = changed(lambda arrays: None)
    other = "current" if file_format == "evalai" else "evalai"
    assert not check_file(path, data_sets, file_format).faults
    (fault,) = check_file(path, data_sets, other).faults
    assert fault.startswith(f"the splits are of the formats id {file_format}, ood_ads")
    assert fault.endswith(f"expected {other}")


def test_splits_of_different_formats(changed, data_sets, file_format):
    """Energies of one split have the shape of fairchem's predictions, those of the others have not."""
    flat = {f"{split}_energy" for split in SPLITS[1:]}

    def change(arrays: Arrays) -> None:
        arrays["id_energy"] = arrays["id_energy"].reshape(-1, 1)
        arrays.update({key: arrays[key].reshape(-1) for key in flat})
        for split in SPLITS:
            del arrays[f"{split}_forces"], arrays[f"{split}_chunk_idx"]

    assert not check_file(changed(change), data_sets).faults  # IS2RE: EvalAI reads both shapes
    (fault,) = check_file(changed(lambda arrays: None), data_sets, "current").faults
    assert fault.startswith("the splits are of the formats id evalai, ood_ads current or evalai")


def test_ids_of_two_splits_are_found_without_data_sets(changed):
    path = changed(lambda arrays: arrays.update(ood_cat_ids=arrays["id_ids"]))
    findings = check_file(path)
    assert "12 ids are in id and in ood_cat, '0_0', '0_1', '1_0', ..." in findings.faults
    assert any("without --against" in note for note in findings.notes)


def test_structures_that_two_data_sets_share(changed, data_sets):
    """They are in both splits of the file, as they have to be."""

    def change(arrays: Arrays) -> None:
        arrays.update({f"ood_cat_{key[3:]}": arrays[key] for key in list(arrays) if key.startswith("id_")})

    path = changed(change)
    assert not check_file(path, {**data_sets, "ood_cat": data_sets["id"]}).faults
    faults = check_file(path, data_sets).faults
    assert "12 ids are in id and in ood_cat, '0_0', '0_1', '1_0', ..." in faults


def test_what_there_is_of_each_split(changed, data_sets, file_format):
    counts = check_file(changed(lambda arrays: None), data_sets).counts
    for split, structures in data_sets.items():
        rows = structures.natoms if file_format == "current" else structures.free
        found = {"structures": 12, "systems": 6, "atoms": structures.natoms.sum(), "forces": rows.sum()}
        assert counts[split] == found


def test_float16_is_mentioned_and_scored(changed, data_sets):
    def change(arrays: Arrays) -> None:
        arrays.update({key: arrays[key].astype(np.float16) for key in arrays if "energy" in key})
        arrays["id_energy"].flat[0] = -9.0

    findings = check_file(changed(change), data_sets)
    assert not findings.faults
    assert "id: energies in float16 are rounded by up to 0.0039 eV" in findings.notes


def test_surplus_arrays_are_mentioned(changed, data_sets):
    findings = check_file(changed(lambda arrays: arrays.update(id_time=np.ones(3))), data_sets)
    assert not findings.faults
    assert findings.notes == ["the leaderboard does not read id_time"]


@pytest.mark.parametrize("content", [b"", b"PK no archive", b"\x93NUMPY"])
def test_unreadable_files(tmp_path, content):
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"file.npz cannot be read as npz"):
        check_file(tmp_path / "file.npz")


def test_pickled_arrays_are_not_loaded(changed, data_sets):
    path = changed(lambda arrays: arrays.update(id_ids=arrays["id_ids"].astype(object)))
    (fault,) = check_file(path, data_sets).faults
    assert re.match(r"id: .*'id_ids' cannot be read: Object arrays", fault)


def test_exit_status(changed, folder, file_format, capsys):
    path = changed(lambda arrays: None)
    assert main(["check", str(path), "--against", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert f"S2EF, format {file_format}" in printed
    assert main(["check", str(changed(put("id_energy", 0, np.nan))), "--against", str(folder)]) == 1
    assert "fault: id: energy: 1 of 12 are not finite" in capsys.readouterr().out
    assert main(["check", str(changed(drop_first))]) == 0
    capsys.readouterr()
    assert main(["check", str(path), "--against", str(folder)]) == 1
    assert "1 of 12 structures are missing" in capsys.readouterr().out
    assert main(["check", str(path.with_name("absent.npz"))]) == 2
    assert capsys.readouterr().err.startswith("error: ")
