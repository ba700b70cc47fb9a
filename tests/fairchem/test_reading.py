"""fairchem-core 1.10 reads samples, checkpoints and other files without running what they name."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.common.utils import load_model_and_weights_from_checkpoint
from fairchem.core.datasets import lmdb_dataset
from fairchem.core.modules.normalization._load_utils import _load_check_duplicates
from fairchem.core.modules.normalization.element_references import create_element_references
from fairchem.core.modules.normalization.normalizer import create_normalizer
from torch_geometric.data import Data

from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.checks import check_run
from ocp_scn.fairchem.v1.loading import read_checkpoint
from ocp_scn.fairchem.v1.reading import load_sample
from ocp_scn.fairchem.v1.shards import ShardedLmdbDataset
from ocp_scn.model import SCN
from ocp_scn.report.command import main as report
from ocp_scn.trained import Trained, to_fairchem1
from ocp_scn.unpickling import TRUST
from tests.malice import Evil, Tensor, torchscript

SETTINGS = {"lmax": 2, "num_interactions": 1, "sphere_channels": 8, "hidden_channels": 8}
SETTINGS |= {"sphere_channels_reduce": 8, "num_sphere_samples": 16}


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    weights = dict(SCN(SCNConfig.from_settings(SETTINGS)).named_parameters())
    weights = {name: value.detach() for name, value in weights.items()}
    scales = {"energy": (0.0, 1.0), "forces": (0.0, 1.0)}
    return to_fairchem1(Trained(dict(SETTINGS), weights, weights, scales))


def sample(**changes: Any) -> Data:
    values = {"pos": torch.zeros(1, 3), "cell": torch.eye(3)[None], "atomic_numbers": torch.ones(1), "sid": 7}
    return Data(**{**values, "natoms": 1, "fixed": torch.zeros(1), "energy": 0.5, **changes})


def data_set(folder: Path, *samples: Any, length: Any = None) -> Path:
    """Write pickles as they are."""
    folder.mkdir()
    with lmdb.open(str(folder / "data.lmdb"), subdir=False) as file, file.begin(write=True) as transaction:
        for index, value in enumerate(samples):
            transaction.put(str(index).encode(), pickle.dumps(value))
        transaction.put(b"length", pickle.dumps(len(samples) if length is None else length))
    return folder


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_are_what_fairchem_has_without_the_guard() -> None:
    new = sample(edge_index=torch.zeros(2, 3, dtype=torch.long), y_relaxed=1.0, pbc=torch.ones(1, 3).bool())
    old = Data()
    old.__dict__ = {"pos": torch.ones(2, 3), "y": None, "natoms": 2}  # as PyTorch Geometric 1 kept it
    for graph in (new, old):
        data = pickle.dumps(graph)
        found, expected = map(lmdb_dataset.pyg2_data_transform, (load_sample(data), pickle.loads(data)))
        assert type(found) is Data
        assert sorted(found.keys()) == sorted(expected.keys())
        for key in found.keys():  # noqa: SIM118  # a graph is no mapping
            assert type(found[key]) is type(expected[key])
            assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))


@pytest.mark.parametrize("of_file", [False, True])
def test_a_sample_runs_nothing_unless_it_is_trusted(
    tmp_path: Path, of_file: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "evil"
    data_set(folder, sample(), sample(sid=Evil(marker)))
    source = str(folder / "data.lmdb" if of_file else folder)
    line = refusal(ShardedLmdbDataset({"src": source}).__getitem__, 1)
    assert line.startswith(f"{source}: sample 1 cannot be read: refused 'posix.mkdir'")
    assert not marker.exists()
    monkeypatch.setenv(TRUST, "1")
    with caplog.at_level(logging.WARNING):
        ShardedLmdbDataset({"src": source})[1]
    assert marker.exists()
    assert f"{source} is trusted" in caplog.text


def test_nothing_else_of_a_data_set_runs(tmp_path: Path) -> None:
    """Neither its length, nor an archive in the place of numbers, nor the metadata beside it."""
    marker = tmp_path / "marker"
    length = data_set(tmp_path / "length", sample(), length=Evil(marker))
    assert f"{length}/data.lmdb' cannot be read: its length is no number: refused 'posix.mkdir'" in refusal(
        ShardedLmdbDataset, {"src": str(length)}
    )
    program = data_set(tmp_path / "program", sample(pos=Tensor(torchscript(marker))))
    line = refusal(ShardedLmdbDataset({"src": str(program)}).__getitem__, 0)
    assert line.startswith(f"{program}: sample 0 cannot be read: it is no sample of fairchem 1: ")
    metadata = data_set(tmp_path / "metadata", sample())
    np.savez(metadata / "metadata.npz", natoms=np.array([Evil(marker)]))
    with pytest.raises(
        InputError, match=f"{metadata / 'metadata.npz'}: 'natoms' cannot be read: Object arrays"
    ):
        _ = ShardedLmdbDataset({"src": str(metadata)})._metadata
    assert not marker.exists()


def test_a_run_names_the_data_set_and_the_class(tmp_path: Path) -> None:
    data_set(tmp_path / "evil", sample(sid=Evil(tmp_path / "marker")))
    split = {"test": {"src": str(tmp_path / "evil"), "format": "lmdb"}}
    line = refusal(check_run, {"mode": "predict", "model": {"name": "elsewhere.Other"}, "dataset": split})
    assert f"{tmp_path / 'evil'}: sample 0 cannot be read: refused 'posix.mkdir'" in line
    assert not (tmp_path / "marker").exists()


def test_no_file_that_fairchem_opens_with_torch_runs(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    marker = tmp_path / "marker"
    torch.save(checkpoint | {"epoch": Evil(marker)}, tmp_path / "evil.pt")
    (tmp_path / "program.pt").write_bytes(torchscript(marker))
    for name, expected in {"evil.pt": "refused 'posix.mkdir'", "program.pt": "is a program"}.items():
        path = str(tmp_path / name)
        readers = [
            (OCPCalculator, {"checkpoint_path": path, "cpu": True}),
            (load_model_and_weights_from_checkpoint, {"checkpoint_path": path}),
            (read_checkpoint, {"path": path}),
            (create_normalizer, {"file": path}),
            (create_element_references, {"file": path}),
            (_load_check_duplicates, {"config": {"file": path}, "name": "normalizers"}),
        ]
        for reader, options in readers:
            line = refusal(reader, **options)
            assert line.startswith(path)
            assert expected in line
    assert not marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "os.system"}},
        {"model": "os.system", "model_attributes": {}},
        {"model": {"name": "hydra", "backbone": {"model": "os.system"}}},
        {"model": {"name": "hydra", "heads": {"energy": {"module": "os.system"}}}},
        {"trainer": "os.system"},
        {"loss_functions": [{"energy": {"fn": "os.abort"}}]},
    ],
)
def test_a_checkpoint_names_models_alone(
    tmp_path: Path, checkpoint: dict[str, Any], change: dict[str, Any]
) -> None:
    """fairchem imports and calls what a checkpoint's configuration names."""
    torch.save(checkpoint | {"config": {**checkpoint["config"], **change}}, tmp_path / "evil.pt")
    line = refusal(OCPCalculator, checkpoint_path=tmp_path / "evil.pt", cpu=True)
    assert line.startswith(f"{tmp_path / 'evil.pt'}: refused ")
    assert "'os." in line


MALFORMED: dict[str, Any] = {
    "state_dict": [None, [1], {"a": 1}, {1: torch.ones(1)}],
    "config": [None, "scn", {"model": None}, {"model": {"lmax": 6}}, {"model": "scn", "model_attributes": 1}],
    "normalizers": [
        None,
        1,
        {"energy": 1},
        {"energy": {"mean": 0.0}},
        {"energy": {"mean": "0", "rmsd": 1.0}},
        {"energy": {"mean": 0.0, "rmsd": 0.0}},
        {"energy": {"mean": float("nan"), "rmsd": 1.0}},
    ],
    "elementrefs": [1, {"energy": 1}, {"energy": {}}],
    "ema": [1, {}, {"shadow_params": 1}, {"shadow_params": [1]}],
    "optimizer": [1],
    "scheduler": ["a"],
    "step": ["1", None, -1],
    "epoch": [[1]],
}


@pytest.mark.parametrize("section", MALFORMED)
def test_sections_of_another_kind_are_named(tmp_path: Path, checkpoint: dict[str, Any], section: str) -> None:
    path = tmp_path / "bad.pt"
    for value in MALFORMED[section]:
        torch.save(checkpoint | {section: value}, path)
        line = refusal(read_checkpoint, path)
        assert line.startswith(f"{path} is not a checkpoint of fairchem: its {section} is ")
    torch.save([1], path)
    assert "it is a list; expected sections" in refusal(read_checkpoint, path)
    torch.save({}, path)
    assert "it has no 'state_dict'; it has nothing" in refusal(read_checkpoint, path)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("trainer", [None, "text", 3, [1]]),
        ("model", [{"name": "text"}]),
        ("dataset", [None, "text", [1], {"a": 1}]),
        ("outputs", [None, "text", [1], {"energy": None}, {"energy": {"level": "x"}}]),
        ("loss_functions", [-3, "text"]),
        ("evaluation_metrics", [None, [1], {"metrics": 3}]),
        ("optim", [None, "text"]),
        ("task", [None, 3]),
        ("slurm", [3]),
    ],
)
def test_a_configuration_of_another_kind_is_named(
    tmp_path: Path, checkpoint: dict[str, Any], section: str, values: list[Any]
) -> None:
    path = tmp_path / "bad.pt"
    for value in values:
        torch.save(checkpoint | {"config": checkpoint["config"] | {section: value}}, path)
        line = refusal(OCPCalculator, checkpoint_path=path, cpu=True)
        assert line.startswith(f"{path} is not a checkpoint of fairchem: its {section} is ")


def test_a_configuration_with_the_names_in_between(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    config = dict(checkpoint["config"])
    config["loss_fns"], config["eval_metrics"] = (
        config.pop("loss_functions"),
        config.pop("evaluation_metrics"),
    )
    torch.save(checkpoint | {"config": config}, tmp_path / "between.pt")
    assert OCPCalculator(checkpoint_path=tmp_path / "between.pt", cpu=True, seed=0).trainer is not None


def test_weights_of_other_settings_are_named(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    path = tmp_path / "bad.pt"
    model = checkpoint["config"]["model"] | {"max_num_elements": 77}
    torch.save(checkpoint | {"config": checkpoint["config"] | {"model": model}}, path)
    line = refusal(OCPCalculator, checkpoint_path=path, cpu=True)
    assert line.startswith(f"{path} does not fit the model's settings: ")


def test_numbers_of_normalizers_may_be_plain(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    plain = {"energy": {"mean": 0.5, "rmsd": 2.0}}
    torch.save(checkpoint | {"normalizers": plain, "elementrefs": None}, tmp_path / "plain.pt")
    calculator = OCPCalculator(checkpoint_path=tmp_path / "plain.pt", cpu=True, seed=0)
    assert float(calculator.trainer.normalizers["energy"].rmsd) == 2.0


def test_a_calculator_and_a_report_name_what_is_missing(
    tmp_path: Path, checkpoint: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run/checkpoints/a/checkpoint.pt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": checkpoint["state_dict"]}, path)
    assert "it has no 'config'" in refusal(OCPCalculator, checkpoint_path=path, cpu=True)
    assert report([str(tmp_path / "run")]) == 2
    assert f"error: {path} is not a checkpoint of fairchem: it has no 'config'" in capsys.readouterr().err
    torch.save(checkpoint | {"config": {"model": {"name": "scn"}}}, path)
    assert report([str(tmp_path / "run")]) == 2
    assert f"error: {path}: its outputs is None" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:3000])
    assert report([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} is not a checkpoint of fairchem, or damaged: ")
    assert error.count("\n") == 1
