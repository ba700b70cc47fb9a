"""What is asked of SLURM, as far as it can be looked at without one; tests/slurm runs it."""

from pathlib import Path

import pytest
import yaml

from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.jobs import sweep_configs

CONFIG = {"identifier": "x", "timestamp_id": "now", "optim": {"lr_initial": 1.0}, "model": {"name": "scn"}}


def sweep(folder: Path, content: object) -> list[dict]:
    path = folder / "sweep.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return sweep_configs(CONFIG, path)


def test_sweep_has_every_combination_under_a_name_of_its_own(tmp_path):
    runs = sweep(tmp_path, {"optim": {"lr_initial": [1e-3, 2e-3]}, "model": {"num_taps": [1, 4]}})
    found = [(run["optim"]["lr_initial"], run["model"]["num_taps"]) for run in runs]
    assert found == [(1e-3, 1), (1e-3, 4), (2e-3, 1), (2e-3, 4)]
    assert [run["timestamp_id"] for run in runs] == [f"now_run{number}" for number in range(4)]
    assert [run["identifier"] for run in runs] == [f"x_run{number}" for number in range(4)]
    assert CONFIG["optim"] == {"lr_initial": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optim": {"lr_initial": 0.1}}, "optim.lr_initial=0.1; expected a list of values"),
        ({"optim": {"lr_initial": []}}, r"optim.lr_initial=\[\]; expected a list of values"),
        ({"optimizer": {"lr": [1, 2]}}, "the configuration has no section optimizer"),
        ("", "expected keys of the configuration, got None"),
        ("a: [1", "while parsing a flow sequence"),
    ],
)
def test_sweeps_that_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        sweep(tmp_path, content)


def test_sweep_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        sweep_configs(CONFIG, tmp_path / "nowhere.yml")
