"""Leaderboard files from predictions of fairchem 2, in one job a split and in several."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fairchem.core import FAIRChemCalculator
from fairchem.core.units.mlip_unit import load_predict_unit

from ocp_scn.data.aselmdb import read_rows
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2 import PredictRunner
from ocp_scn.submission.__main__ import main
from ocp_scn.submission.archive import SPLITS
from tests.commands.conftest import ENVIRONMENT, ROOT
from tests.fairchem2.conftest import FAIRCHEM1, Run, fairchem, needs_fairchem1

pytestmark = pytest.mark.slow
PREDICT = ROOT / "configs/fairchem2/predict.yaml"
# fairchem's command starts once for all of these; each line gives what a process of its own does.
RUN_ALL = """
import json, sys
from fairchem.core._cli import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = ["-c", *words]
    main()
"""
# fairchem 1's own script, which knows nothing of this package.
THEIRS = """
import json, sys
from argparse import Namespace
from fairchem.core.scripts import make_submission_file
options = {"dataset": "OC20", "is2re_relaxations": False, "hybrid": False, "out_path": sys.argv[2]}
make_submission_file.main(Namespace(**options, **json.loads(sys.argv[1])))
"""
Sources = dict[str, dict[str, Path]]


@pytest.fixture(scope="module")
def sources(sample: Path) -> Sources:
    """The data sets of the splits; IS2RE has no system in its small ``test``."""
    names = {split: f"test_{split}" for split in SPLITS}
    return {
        "s2ef": {split: sample / "s2ef" / name for split, name in {**names, "id": "test"}.items()},
        "is2re": {split: sample / "is2re" / name for split, name in {**names, "id": "train"}.items()},
    }


def words_of(checkpoint: Path, src: Path, results: Path, *words: object) -> list[str]:
    """Return the words of a prediction in batches of one structure, whose bits depend on it alone."""
    keys = {"checkpoint": checkpoint, "src": src, "results": results, "max_atoms": 1}
    run = [f"job.run_dir={results.parent / 'run'}", "job.device_type=CPU"]
    return [str(PREDICT), *run, *[f"{key}={value}" for key, value in keys.items()], *map(str, words)]


@pytest.fixture(scope="module")
def results(
    sources: Sources,
    checkpoint: Path,
    trained_is2re: tuple[Path, dict[int, list[str]]],
    command: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folders s2ef-SPLIT and is2re-SPLIT with predictions, and of two of three shards of S2EF's ``id``."""
    folder = tmp_path_factory.mktemp("results")
    lines = [
        words_of(model, src, folder / f"{track}-{split}/ocp_predictions.npz")
        for track, model in (("s2ef", checkpoint), ("is2re", trained_is2re[0]))
        for split, src in sources[track].items()
    ]
    for shard in (0, 2):
        words = [f"shard={shard}", "total_shards=3"]
        results = folder / f"shard-{shard}/ocp_predictions.npz"
        lines.append(words_of(checkpoint, sources["s2ef"]["id"], results, *words))
    command("-c", RUN_ALL, json.dumps(lines), PYTHONPATH=str(ROOT))
    return folder


@pytest.fixture(scope="module")
def splits(results: Path, sources: Sources) -> Callable[..., list[str]]:
    """Return the words that name results and data sets of every split, ``id`` perhaps in parts."""

    def splits(track: str, *of_id: Path) -> list[str]:
        found = {split: [results / f"{track}-{split}"] for split in SPLITS} | ({"id": of_id} if of_id else {})
        words = [word for split in SPLITS for word in [f"--{split.replace('_', '-')}", *found[split]]]
        return [*map(str, words), "--against", *(f"{k}={path}" for k, path in sources[track].items())]

    return splits


def test_commands(command, splits, tmp_path):
    """Write and check, as a user runs them; a check against swapped splits finds that out."""
    file, words = tmp_path / "file.npz", splits("s2ef")
    output = command("-m", "ocp_scn.submission", "write", "s2ef", file, *words).stdout
    assert output.startswith(f"wrote {file}\nS2EF, format current\n")
    against = words[words.index("--against") :]
    assert "fault" not in command("-m", "ocp_scn.submission", "check", file, *against).stdout
    names = {"ood_ads": "ood_cat", "ood_cat": "ood_ads"}
    swapped = [
        f"{names.get(split, split)}={path}" for split, _, path in (w.partition("=") for w in against[1:])
    ]
    done = command("-m", "ocp_scn.submission", "check", file, "--against", *swapped, ok=False)
    assert done.returncode == 1
    assert "are of split 'ood_cat'" in done.stdout


@pytest.mark.parametrize("file_format", ["current", "evalai"])
@pytest.mark.parametrize("track", ["s2ef", "is2re"])
def test_every_format_has_each_structure_once(sources, splits, tmp_path, track, file_format):
    """Sorted by id, which is SID_FID or, where there are no frames, SID."""
    path, words = tmp_path / "file.npz", splits(track)
    assert main(["write", track, str(path), "--format", file_format, *words]) == 0
    against = words[words.index("--against") :]
    assert main(["check", str(path), "--format", file_format, *against]) == 0
    found = dict(np.load(path))
    for split, folder in sources[track].items():
        rows = read_rows(sorted(folder.glob("*.aselmdb")))
        names = [f"{data['sid']}_{data['fid']}" if track == "s2ef" else data["sid"] for _, data in rows]
        assert found[f"{split}_ids"].tolist() == sorted(names)
        assert found[f"{split}_energy"].shape == (
            (len(names),) if file_format == "current" else (len(names), 1)
        )


def test_numbers_are_those_of_the_calculator(splits, sources, checkpoint, tmp_path):
    """The current format has forces on all atoms as ASE gives them, with 0 on fixed ones."""
    assert main(["write", "s2ef", str(tmp_path / "file.npz"), *splits("s2ef")]) == 0
    found = dict(np.load(tmp_path / "file.npz"))
    forces = np.split(found["id_forces"], found["id_chunk_idx"])
    by_name = dict(zip(found["id_ids"], zip(found["id_energy"], forces, strict=True), strict=True))
    calculator = FAIRChemCalculator(load_predict_unit(checkpoint, device="cpu"), task_name="oc20")
    for atoms, data in read_rows(sorted(sources["s2ef"]["id"].glob("*.aselmdb"))):
        energy, of_atoms = by_name[f"{data['sid']}_{data['fid']}"]
        atoms.calc = calculator
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert np.abs(of_atoms - atoms.get_forces()).max() < 1e-5
        assert len(atoms.constraints[0].index) > 0


def test_a_lost_shard_is_named_and_made_again(results, sources, splits, checkpoint, capsys, tmp_path):
    """Joined shards give the file of one job, byte for byte."""
    kept = [results / "shard-2", results / "shard-0"]
    assert main(["write", "s2ef", str(tmp_path / "lost.npz"), *splits("s2ef", *kept)]) == 2
    assert capsys.readouterr().err.endswith("shard 1 of total_shards=3\n")
    again = tmp_path / "again/ocp_predictions.npz"
    words = ["shard=1", "total_shards=3"]
    fairchem(*words_of(checkpoint, sources["s2ef"]["id"], again, *words))
    for file_format in ("current", "evalai"):
        files = {"one": splits("s2ef"), "joined": splits("s2ef", *kept, again.parent)}
        for name, of_splits in files.items():
            arguments = ["write", "s2ef", str(tmp_path / f"{name}.npz"), "--overwrite"]
            assert main([*arguments, "--format", file_format, *of_splits]) == 0
        assert (tmp_path / "joined.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


@needs_fairchem1
@pytest.mark.parametrize("track", ["s2ef", "is2re"])
def test_files_for_evalai_are_fairchems(results, splits, tmp_path, track):
    """fairchem 1's script takes the predictions and makes the same bytes of them."""
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    assert main(["write", track, str(ours), "--format", "evalai", *splits(track)]) == 0
    files = {split: str(results / f"{track}-{split}/ocp_predictions.npz") for split in SPLITS}
    environment = {**ENVIRONMENT, "PYTHONPATH": ""}
    done = subprocess.run([FAIRCHEM1, "-c", THEIRS, json.dumps(files), theirs], env=environment, check=False)
    assert done.returncode == 0
    assert ours.read_bytes() == theirs.read_bytes()


def test_relaxed_energies_are_trained_and_predicted(results, trained_is2re):
    """IS2RE: the target is the relaxed energy, not that of the structure."""
    assert len(trained_is2re[1]) == 8
    found = dict(np.load(results / "is2re-id/ocp_predictions.npz"))
    assert sorted(found) == ["energy", "ids"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": 3, "total_shards": 3}, "shard=3 of total_shards=3; expected 0 to 2"),
        ({"total_shards": 3}, "shard=None of total_shards=3; expected 0 to 2"),
        ({"task_name": "omat"}, "task_name='omat'; expected oc20"),
        ({"results": "predictions"}, "results='predictions'; expected a name that ends with .npz"),
    ],
)
def test_bad_settings_of_predictions_are_named(checkpoint, sources, tmp_path, changes, message):
    settings = {"src": str(sources["s2ef"]["id"]), "results": str(tmp_path / "predictions.npz")}
    with pytest.raises(InputError, match=message):
        PredictRunner(str(checkpoint), **{**settings, **changes}).run()
    assert not list(tmp_path.iterdir())


def test_bad_data_sets_are_named(capfd, splits, tmp_path):
    """In one line: a folder without data, and a file that is no database."""
    words = splits("is2re")
    words = words[: words.index("--against")]
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged/data.0000.aselmdb").write_text("text")
    for name, message in (("empty", "no .lmdb or .aselmdb file"), ("damaged", "cannot be read")):
        write = ["write", "is2re", str(tmp_path / "file.npz"), *words, "--against"]
        assert main([*write, *(f"{split}={tmp_path / name}" for split in SPLITS)]) == 2
        assert message in capfd.readouterr().err
    assert not (tmp_path / "file.npz").exists()
