"""A report of a run of fairchem-core 2."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ocp_scn.errors import InputError
from ocp_scn.report import write_report
from ocp_scn.report.losses import read_log
from ocp_scn.report.predictions import read_targets


def test_a_run_has_its_losses_on_record_and_a_report(trained, sample):
    """The losses are those that fairchem prints; predictions and data set meet by id."""
    folder, printed = trained
    log = read_log(folder / "logs/tensorboard")
    assert log is not None
    assert log.training.steps.tolist() == [step + 1 for step in sorted(printed)]
    expected = [float(printed[step][0]) for step in sorted(printed)]
    np.testing.assert_allclose(log.training.losses, expected, rtol=1e-6)
    assert log.validation.steps.tolist() == [4, 8]

    targets = read_targets(str(sample / "s2ef/val"))
    order = np.random.default_rng(0).permutation(len(targets.ids))
    blocks = np.split(targets.forces, np.cumsum(targets.free_atoms)[:-1])
    path = folder / "results/val/ocp_predictions.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(
        path,
        ids=np.array(targets.ids)[order],
        energy=(targets.energy + 0.5)[order, None],
        forces=np.concatenate([blocks[k] for k in order]) + 0.25,
        chunk_idx=np.cumsum(targets.free_atoms[order])[:-1],
    )
    found = write_report(folder)["s2ef"]["val"]
    assert found["model"]["energy_mae"] == pytest.approx(0.5)
    assert found["model"]["forces_mae"] == pytest.approx(0.25)
    assert 0 < found["trivial"]["energy_mae"] < 10
    page = (folder / "report/report.html").read_text(encoding="utf-8")
    for text in ("S2EF: val", "By adsorbate", "By tag", "Largest errors", "The loss of 8 steps", "2.24"):
        assert text in page
    assert not re.search(r"(src|href)=.https?:", page)


def test_a_run_of_the_other_line_is_refused(tmp_path):
    path = tmp_path / "checkpoints/one/checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="report on it in that environment"):
        write_report(tmp_path)
