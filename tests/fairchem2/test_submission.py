"""Predictions of fairchem-core 2 become leaderboard files by the same commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ocp_scn.fairchem.v2 import PredictRunner
from tests.commands.conftest import ROOT
from tests.fairchem2.conftest import fairchem

pytestmark = pytest.mark.slow
SPLITS = {"id": "test", "ood-ads": "test_ood_ads", "ood-cat": "test_ood_cat", "ood-both": "test_ood_both"}


@pytest.fixture(scope="module", params=["s2ef", "is2re"])
def predicted(request, sample: Path, checkpoint: Path, tmp_path_factory) -> tuple[str, list[object]]:
    """The track, and the words that name its predictions: those of ``id`` in two shards, by the command."""
    track, folder = request.param, tmp_path_factory.mktemp("predicted")
    words: list[object] = []
    for option, split in SPLITS.items():
        src, results = sample / track / split, [folder / f"{split}-{shard}.npz" for shard in range(2)]
        if option == "id":
            for shard, path in enumerate(results):
                overrides = {"checkpoint": checkpoint, "src": src, "results": path, "shard": shard}
                overrides |= {"total_shards": 2, "job.device_type": "CPU", "job.run_dir": folder}
                pairs = [f"{key}={value}" for key, value in overrides.items()]
                fairchem(ROOT / "configs/fairchem2/predict.yaml", *pairs)
        else:
            PredictRunner(str(checkpoint), str(src), str(results[0])).run()
        words += [f"--{option}", *(path for path in results if path.exists())]
    return track, words


@pytest.mark.parametrize("layout", ["evalai", "current"])
def test_they_are_written_joined_and_checked(command, predicted, sample, layout, tmp_path):
    track, words = predicted
    against = ["--against", sample / track]
    path = tmp_path / "file.npz"
    command("-m", "ocp_scn.submission", "write", track, path, "--format", layout, *against, *words)
    done = command("-m", "ocp_scn.submission", "check", path, *against)
    assert f"{track.upper()}, format {layout}" in done.stdout
    with np.load(path) as file:
        ids = file["id_ids"]
        if track == "s2ef" and layout == "current":
            assert len(file["id_chunk_idx"]) == len(ids) - 1
            assert np.isfinite(file["id_forces"]).all()
    natoms = np.load(sample / track / "test/metadata.npz")["natoms"]
    assert len(set(ids)) == len(natoms)


def test_a_lost_shard_is_named(command, predicted, sample, tmp_path):
    track, words = predicted
    words = [word for word in words if not str(word).endswith("test-1.npz")]
    arguments = [track, tmp_path / "file.npz", "--format", "current", "--against", sample / track, *words]
    done = command("-m", "ocp_scn.submission", "write", *arguments, ok=False)
    assert done.returncode != 0
    assert "missing" in done.stdout + done.stderr
    assert not (tmp_path / "file.npz").exists()
