"""Files written for the leaderboards: fairchem's own to the byte, and the current format."""

from __future__ import annotations

from argparse import Namespace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from fairchem.core.scripts import make_submission_file

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.relaxations import Relaxed, write_relaxed
from ocp_scn.predictions import shard_bounds
from ocp_scn.submission import check_file, write_file
from ocp_scn.submission.__main__ import main
from ocp_scn.submission.archive import SPLITS
from tests.submission.conftest import part_of


def fairchem_writes(path: Path, results: dict[str, list[Path]]) -> bytes:
    """Return what fairchem's own script writes."""
    options = {"dataset": "OC20", "is2re_relaxations": False, "hybrid": False, "out_path": str(path)}
    make_submission_file.main(
        Namespace(**options, **{split: str(files[0]) for split, files in results.items()})
    )
    return path.read_bytes()


def relaxations(data_sets, folder: Path) -> dict[str, list[Path]]:
    """Write relaxed structures as runs leave them."""
    rng = np.random.default_rng(0)
    for split, structures in data_sets.items():
        relaxed = {
            name: Relaxed(rng.normal(size=(natoms, 3)), float(rng.normal()))
            for name, natoms in zip(structures.ids.tolist(), structures.natoms, strict=True)
        }
        (folder / f"relax-{split}").mkdir()
        write_relaxed(folder / f"relax-{split}" / "relaxed_positions.npz", relaxed)
    return {split: [folder / f"relax-{split}"] for split in data_sets}


def split_results(results, data_sets, parts: int) -> dict[str, list[Path]]:
    """Write every split's predictions as ``parts`` jobs do, each a shard of the data set in random order."""
    files: dict[str, list[Path]] = {split: [] for split in results}
    rng = np.random.default_rng(parts)
    for split, (path,) in results.items():
        whole = dict(np.load(path))
        bounds = shard_bounds(len(whole["ids"]), parts)
        for shard in range(parts):
            names = data_sets[split].ids[bounds[shard] : bounds[shard + 1]]
            chosen = rng.permutation(np.flatnonzero(np.isin(whole["ids"], names)))
            files[split].append(path.with_name(f"shard-{shard}.npz"))
            np.savez_compressed(files[split][-1], **part_of(whole, chosen))
        files[split] = [files[split][k] for k in rng.permutation(parts)]
    return files


def test_s2ef_is_what_fairchem_writes(results, data_sets, tmp_path):
    expected = fairchem_writes(tmp_path / "theirs.npz", results)
    for against in (None, data_sets):
        write_file(tmp_path / "ours.npz", "s2ef", "evalai", results, against)
        assert (tmp_path / "ours.npz").read_bytes() == expected


def test_direct_is2re_is_what_fairchem_writes(results, data_sets, tmp_path):
    for (path,) in results.values():
        arrays = np.load(path)
        np.savez_compressed(path, energy=arrays["energy"], ids=arrays["ids"])
    expected = fairchem_writes(tmp_path / "theirs.npz", results)
    write_file(tmp_path / "ours.npz", "is2re", "evalai", results, data_sets)
    assert (tmp_path / "ours.npz").read_bytes() == expected


def test_is2rs_is_what_fairchem_writes(data_sets, tmp_path):
    """Of files with the arrays that fairchem's relaxations have; ours have energies too."""
    folders = relaxations(data_sets, tmp_path)
    write_file(tmp_path / "ours.npz", "is2rs", "evalai", folders, data_sets)
    files = {}
    for split, (folder,) in folders.items():
        arrays = dict(np.load(folder / "relaxed_positions.npz"))
        del arrays["energy"]
        files[split] = [folder / "theirs.npz"]
        np.savez_compressed(files[split][0], **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == fairchem_writes(tmp_path / "theirs.npz", files)


@pytest.mark.parametrize("file_format", ["evalai", "current"])
def test_is2re_by_relaxation_has_the_relaxed_energies(data_sets, tmp_path, file_format):
    folders = relaxations(data_sets, tmp_path)
    write_file(tmp_path / "file.npz", "is2re", file_format, folders, data_sets)
    file = np.load(tmp_path / "file.npz")
    assert sorted(file) == sorted(f"{split}_{name}" for split in SPLITS for name in ("energy", "ids"))
    for split, (folder,) in folders.items():
        relaxed = np.load(folder / "relaxed_positions.npz")
        assert np.array_equal(file[f"{split}_ids"], relaxed["ids"])
        assert np.array_equal(file[f"{split}_energy"], relaxed["energy"])


def test_current_s2ef_has_forces_of_all_atoms(results, data_sets, tmp_path):
    write_file(tmp_path / "file.npz", "s2ef", "current", results, data_sets)
    file = np.load(tmp_path / "file.npz")
    for split, structures in data_sets.items():
        free = np.load(results[split][0])
        wanted = structures.of(free["ids"])
        assert np.array_equal(file[f"{split}_ids"], free["ids"])
        assert np.array_equal(file[f"{split}_energy"], free["energy"][:, 0])
        assert np.array_equal(file[f"{split}_chunk_idx"], np.cumsum(wanted.natoms)[:-1])
        assert file[f"{split}_forces"].shape == (wanted.natoms.sum(), 3)
        assert not file[f"{split}_forces"][wanted.fixed].any()
        assert np.array_equal(file[f"{split}_forces"][~wanted.fixed], free["forces"])


@pytest.mark.parametrize("file_format", ["evalai", "current"])
def test_shards_in_any_order_give_the_same_bytes(results, data_sets, tmp_path, file_format):
    write_file(tmp_path / "whole.npz", "s2ef", file_format, results, data_sets)
    for parts in (2, 5):
        files = split_results(results, data_sets, parts)
        write_file(tmp_path / "joined.npz", "s2ef", file_format, files, data_sets)
        assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_lost_shards_are_named_and_nothing_is_written(results, data_sets, tmp_path):
    shards = split_results(results, data_sets, 5)
    lost = {2, 4}
    kept = [path for path in shards["ood_cat"] if int(path.stem[-1]) not in lost]
    with pytest.raises(InputError, match=r"ood_cat: 4 of 12 .*: shard 2, 4 of total_shards=5$"):
        write_file(tmp_path / "f.npz", "s2ef", "evalai", {**shards, "ood_cat": kept}, data_sets)
    assert not list(tmp_path.glob("*f.npz*"))


def test_results_that_do_not_fit_together(results, data_sets, tmp_path):
    twice = {**results, "id": [*results["id"], *results["id"]]}
    with pytest.raises(InputError, match=r"id '.*' comes 2 times, in (\S*/id/ocp_predictions.npz) and \1$"):
        write_file(tmp_path / "f.npz", "s2ef", "current", twice, data_sets)
    swapped = {**results, "id": results["ood_ads"], "ood_ads": results["id"]}
    with pytest.raises(InputError, match="id: 12 of 12 structures are missing"):
        write_file(tmp_path / "f.npz", "s2ef", "current", swapped, data_sets)
    with pytest.raises(InputError, match=r"current leaderboard has no IS2RS"):
        write_file(tmp_path / "f.npz", "is2rs", "current", results, data_sets)
    with pytest.raises(InputError, match=r"pass --against DATASET"):
        write_file(tmp_path / "f.npz", "s2ef", "current", results)
    half = split_results(results, data_sets, 2)
    arrays = dict(np.load(half["id"][0]))
    np.savez_compressed(half["id"][0], **{**arrays, "forces": arrays["forces"].astype(np.float16)})
    with pytest.raises(InputError, match=r"forces is float16 of 2 dimensions in .*, float32 of 2"):
        write_file(tmp_path / "f.npz", "s2ef", "current", half, data_sets)
    mixed = {**half, "id": [half["id"][1], *relaxations(data_sets, tmp_path)["id"]]}
    with pytest.raises(InputError, match=r"energy is float32 of 2 dimensions in .*, float64 of 1"):
        write_file(tmp_path / "f.npz", "is2re", "current", mixed, data_sets)
    assert not list(tmp_path.glob("*f.npz*"))


def test_results_in_folders_of_runs(results, data_sets, tmp_path):
    """The file is found; of predictions beside relaxations, IS2RE has to be told which."""
    folders = {split: [path.parent] for split, (path,) in results.items()}
    relaxed = np.load(relaxations(data_sets, tmp_path)["id"][0] / "relaxed_positions.npz")
    np.savez_compressed(folders["id"][0] / "relaxed_positions.npz", **relaxed)
    for name, paths in (("whole", results), ("found", folders)):
        write_file(tmp_path / f"{name}.npz", "s2ef", "evalai", paths, data_sets)
    assert (tmp_path / "found.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    with pytest.raises(InputError, match=r"id has ocp_predictions.npz and relaxed_positions.npz; name the"):
        write_file(tmp_path / "f.npz", "is2re", "evalai", folders, data_sets)
    with pytest.raises(InputError, match=r"ood_ads has no relaxed_positions.npz$"):
        write_file(tmp_path / "f.npz", "is2rs", "evalai", folders, data_sets)


def test_results_of_all_atoms_are_refused(results, data_sets, tmp_path):
    """Another program's predictions: their zeros and those that are filled in would be mixed up."""
    write_file(tmp_path / "whole.npz", "s2ef", "current", results, data_sets)
    whole = np.load(tmp_path / "whole.npz")
    fields = ("ids", "energy", "forces", "chunk_idx")
    np.savez_compressed(results["id"][0], **{name: whole[f"id_{name}"] for name in fields})
    with pytest.raises(InputError, match=r"has forces of \d atoms; expected those of the \d free ones"):
        write_file(tmp_path / "f.npz", "s2ef", "current", results, data_sets)


def test_unfinished_and_broken_results(results, data_sets, tmp_path):
    (tmp_path / "unfinished/relaxed_parts").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no relaxed_positions.npz; its relaxations are unfinished"):
        write_file(tmp_path / "f.npz", "is2rs", "evalai", {**results, "id": [tmp_path / "unfinished"]})
    content = results["ood_both"][0].read_bytes()
    for cut in (0, len(content) // 2):
        results["ood_both"][0].write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"ocp_predictions.npz cannot be read"):
            write_file(tmp_path / "f.npz", "s2ef", "evalai", results, data_sets)
    assert not list(tmp_path.glob("*f.npz*"))


def test_written_files_pass_the_check(results, data_sets, tmp_path):
    for file_format in ("evalai", "current"):
        write_file(tmp_path / "file.npz", "s2ef", file_format, results, data_sets)
        findings = check_file(tmp_path / "file.npz", data_sets)
        assert not findings.faults
        assert set.intersection(*findings.formats.values()) == {file_format}


def test_an_existing_file_is_kept(results, data_sets, folder, tmp_path, capsys):
    words = [word for split in SPLITS for word in (f"--{split.replace('_', '-')}", str(results[split][0]))]
    words = ["write", "s2ef", str(tmp_path / "file.npz"), *words, "--against", str(folder)]
    (tmp_path / "file.npz").write_text("precious")
    assert main(words) == 2
    assert "exists; name another file or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "file.npz").read_text() == "precious"
    assert main([*words, "--overwrite"]) == 0
    findings = check_file(tmp_path / "file.npz", data_sets)
    assert not findings.faults
    assert set.intersection(*findings.formats.values()) == {"current"}
    assert main([word.replace("file.npz", "file.zip") for word in words]) == 2
    assert "expected a name that ends with .npz" in capsys.readouterr().err


def test_words_of_the_command(results, data_sets, folder, tmp_path, capsys):
    """Several files of a split are joined; without a split, or in another format, nothing is done."""
    files = split_results(results, data_sets, 2)
    words = [[f"--{split.replace('_', '-')}", *map(str, files[split])] for split in SPLITS]
    three, all_splits = list(chain(*words[:-1])), list(chain(*words))
    common = ["write", "s2ef", str(tmp_path / "file.npz"), "--against", str(folder), "--format", "evalai"]
    assert main([*common, *all_splits]) == 0
    write_file(tmp_path / "whole.npz", "s2ef", "evalai", results, data_sets)
    assert (tmp_path / "file.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    for refused, message in (
        ([*common, *three], "the following arguments are required: --ood-both"),
        ([*common, *all_splits, "--format", "oc20"], "--format: invalid choice: 'oc20'"),
        (["check", str(tmp_path / "file.npz"), "--format", "oc20"], "--format: invalid choice: 'oc20'"),
        ([], "the following arguments are required: COMMAND"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(refused)
        assert message in capsys.readouterr().err
