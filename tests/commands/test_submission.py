"""Leaderboard files from real predictions and relaxations, in one job a split and in several."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fairchem.core.scripts import make_submission_file

from ocp_scn.submission.__main__ import main
from ocp_scn.submission.archive import SPLITS
from tests.commands.conftest import Command

pytestmark = pytest.mark.slow

# The process starts once for all of these; each command line gives what a process of its own does.
RUN_ALL = """
import json, sys
from ocp_scn.fairchem.v1.launcher import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""
ONE = "--optim.eval_batch_size=1"  # then a structure's bits do not depend on what else is predicted
STEPS = "--task.relaxation_steps=3"
Write = Callable[..., bytes]


@pytest.fixture(scope="module")
def sources(sample: Path) -> dict[str, dict[str, Path]]:
    """The data sets of the splits; relaxations of ``id`` are those of the training systems."""
    names = {split: f"test_{split}" for split in SPLITS}
    return {
        "s2ef": {split: sample / "s2ef" / name for split, name in {**names, "id": "test"}.items()},
        "is2re": {split: sample / "is2re" / name for split, name in {**names, "id": "train"}.items()},
    }


@pytest.fixture(scope="module")
def results(
    sources: dict[str, dict[str, Path]],
    config: Path,
    direct: Path,
    best: Path,
    command: Command,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The results of a run: s2ef-SPLIT, direct-SPLIT and relax-SPLIT, and two of three shards of ``id``."""
    folder = tmp_path_factory.mktemp("splits")
    lines = []

    def add(mode: str, name: str, *words: object, settings: Path = config) -> None:
        common = ["--mode", mode, "--config-yml", settings, "--cpu", "--run-dir", folder, ONE]
        lines.append([str(word) for word in [*common, "--timestamp-id", name, *words]])

    add("train", "direct", "--optim.max_epochs=1", settings=direct)
    trained = folder / "checkpoints/direct/checkpoint.pt"
    for split in SPLITS:
        frames, systems = (sources[task][split] for task in ("s2ef", "is2re"))
        add("predict", f"s2ef-{split}", "--checkpoint", best, f"--dataset.test.src={frames}")
        words = ["--checkpoint", trained, f"--dataset.test.src={systems}"]
        add("predict", f"direct-{split}", *words, settings=direct)
        add(
            "run-relaxations", f"relax-{split}", "--checkpoint", best, f"--dataset.relax.src={systems}", STEPS
        )
    for shard in (0, 2):
        keys = {"src": sources["s2ef"]["id"], "shard": shard, "total_shards": 3}
        words = [f"--dataset.test.{key}={value}" for key, value in keys.items()]
        add("predict", f"shard-{shard}", "--checkpoint", best, *words)
    for shard in (0, 1):
        keys = {"src": sources["is2re"]["id"], "shard": shard, "total_shards": 2}
        words = [f"--dataset.relax.{key}={value}" for key, value in keys.items()]
        add("run-relaxations", f"relax-shard-{shard}", "--checkpoint", best, *words, STEPS)
    command("-c", RUN_ALL, json.dumps(lines))
    return folder / "results"


def words_of(
    track: str, kind: str, results: Path, sources: dict[str, dict[str, Path]], of_id: object
) -> list[str]:
    """Return the words that name results and data sets of every split."""
    found = {split: [results / f"{kind}-{split}"] for split in SPLITS} | ({"id": of_id} if of_id else {})
    words = [word for split in SPLITS for word in [f"--{split.replace('_', '-')}", *found[split]]]
    data = sources["s2ef" if track == "s2ef" else "is2re"]
    return [*map(str, words), "--against", *(f"{split}={path}" for split, path in data.items())]


@pytest.fixture(scope="module")
def write(
    results: Path, sources: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Write:
    """Write a file from the results of every split, or others of ``id``; return its bytes."""
    path = tmp_path_factory.mktemp("files") / "file.npz"

    def write(track: str, kind: str, file_format: str, of_id: list[Path] | None = None) -> bytes:
        words = words_of(track, kind, results, sources, of_id)
        assert main(["write", track, str(path), "--overwrite", "--format", file_format, *words]) == 0
        return path.read_bytes()

    return write


def fairchem_writes(path: Path, results: dict[str, Path], *, relaxations: bool = False) -> bytes:
    """Return what fairchem's own script makes of results."""
    options = {"dataset": "OC20", "is2re_relaxations": relaxations, "hybrid": False, "out_path": str(path)}
    make_submission_file.main(Namespace(**options, **{split: str(file) for split, file in results.items()}))
    return path.read_bytes()


def test_write_and_check(
    command: Command, results: Path, sources: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    words = words_of("s2ef", "s2ef", results, sources, None)
    file = tmp_path / "file.npz"
    output = command("-m", "ocp_scn.submission", "write", "s2ef", file, *words).stdout
    assert output.startswith(f"wrote {file}\nS2EF, format current\n")
    check = ["-m", "ocp_scn.submission", "check", file, *words[words.index("--against") :]]
    assert "fault" not in command(*check).stdout
    done = command(*check, "--format", "evalai", ok=False)
    assert done.returncode == 1
    assert "fault: the splits are of the formats id current" in done.stdout


@pytest.mark.parametrize(("track", "kind"), [("s2ef", "s2ef"), ("is2re", "direct")])
def test_files_for_evalai_are_fairchems(
    write: Write, results: Path, tmp_path: Path, track: str, kind: str
) -> None:
    whole = {split: results / f"{kind}-{split}" / "ocp_predictions.npz" for split in SPLITS}
    assert write(track, kind, "evalai") == fairchem_writes(tmp_path / "theirs.npz", whole)


def test_relaxed_energies_are_fairchems(write: Write, results: Path, tmp_path: Path) -> None:
    """IS2RE by relaxation has the energies that fairchem's script finds in the trajectories."""
    (tmp_path / "ours.npz").write_bytes(write("is2re", "relax", "evalai"))
    folders = {split: results / f"relax-{split}" / "trajectories" for split in SPLITS}
    fairchem_writes(tmp_path / "theirs.npz", folders, relaxations=True)
    ours, theirs = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    for split in SPLITS:
        order = np.argsort(theirs[f"{split}_ids"])  # its order is that of the folder
        for name in ("ids", "energy"):
            assert np.array_equal(ours[f"{split}_{name}"], theirs[f"{split}_{name}"][order])


def test_lost_shard(
    fairchem: Command,
    best: Path,
    results: Path,
    sources: dict[str, dict[str, Path]],
    write: Write,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    kept = [results / "shard-2", results / "shard-0"]
    words = words_of("s2ef", "s2ef", results, sources, kept)
    assert main(["write", "s2ef", str(tmp_path / "lost.npz"), *words]) == 2
    assert capsys.readouterr().err.endswith("shard 1 of total_shards=3\n")
    assert not list(tmp_path.iterdir())
    keys = {"src": sources["s2ef"]["id"], "shard": 1, "total_shards": 3}
    again = [f"--dataset.test.{key}={value}" for key, value in keys.items()]
    fairchem("predict", tmp_path, "--checkpoint", best, ONE, *again, "--timestamp-id", "again")
    shards = [*kept, tmp_path / "results/again"]
    for file_format in ("current", "evalai"):
        assert write("s2ef", "s2ef", file_format, shards) == write("s2ef", "s2ef", file_format)


def test_shards_of_relaxations(write: Write, results: Path) -> None:
    shards = [results / "relax-shard-1", results / "relax-shard-0"]
    for track, file_format in (("is2rs", "evalai"), ("is2re", "current")):
        assert write(track, "relax", file_format, shards) == write(track, "relax", file_format)
