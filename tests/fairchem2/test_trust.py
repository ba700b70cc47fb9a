"""Inference checkpoints run nothing that they name, neither in their pickle nor in their configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ocp_scn.checkpoint import main
from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2 import AseDatabase, load_inference_model, load_predict_unit, load_tasks
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.model import SCN
from ocp_scn.trained import Trained, to_fairchem1
from ocp_scn.unpickling import TRUST
from tests.fairchem2.conftest import TINY
from tests.malice import Evil, torchscript


def trained() -> Trained:
    weights = dict(SCN(SCNConfig.from_settings(TINY)).named_parameters())
    weights = {name: value.detach() for name, value in weights.items()}
    return Trained(dict(TINY), weights, weights, {"energy": (0.0, 1.0), "forces": (0.0, 1.0)})


def refused(path) -> str:
    """Return the line with which every reader refuses a file."""
    lines = set()
    for read in (load_predict_unit, load_inference_model, load_tasks):
        with pytest.raises(InputError) as caught:
            read(str(path))
        lines.add(str(caught.value))
    (line,) = lines
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def test_files_that_run_something_are_refused(tmp_path, capsys):
    marker = tmp_path / "marker"
    checkpoint = build(trained(), "oc20")
    checkpoint.ema_state_dict = Evil(marker)
    torch.save(checkpoint, tmp_path / "two.pt")
    torch.save(to_fairchem1(trained()) | {"amp": Evil(marker)}, tmp_path / "one.pt")
    (tmp_path / "program.pt").write_bytes(torchscript(marker))
    names = {
        "two.pt": "refused 'posix.mkdir'",
        "one.pt": "refused 'posix.mkdir'",
        "program.pt": "is a program",
    }
    for name, expected in names.items():
        assert expected in refused(tmp_path / name)
        assert main(["convert", str(tmp_path / name), str(tmp_path / "out.pt")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / name}")
        assert expected in error
        assert error.count("\n") == 1
    assert not marker.exists()


CHANGES = {
    "model": ({"_target_": "os.mkdir"}, {}),
    "backbone": ({"backbone": {"model": "os.mkdir"}}, {}),
    "head": ({"heads": {"oc20_energy": {"module": "os.mkdir"}}}, {}),
    "argument": ({"backbone": {"lmax": {"_target_": "os.mkdir"}}}, {}),
    "resolved": ({"path": "os.mkdir", "backbone": {"lmax": {"_target_": "${path}"}}}, {}),
    "attribute": ({"_target_": "ocp_scn.fairchem.v2.checkpoint.torch.load"}, {}),
    "another checkpoint": ({"finetune_config": {"starting_checkpoint": "other.pt"}}, {}),
    "normalizer": ({}, {"normalizer": {"_target_": "os.mkdir"}}),
    "loss": ({}, {"loss_fn": {"loss_fn": {"_target_": "os.mkdir"}}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_names_what_checkpoints_of_this_package_name(tmp_path, monkeypatch, change):
    """fairchem would call it with the arguments beside it."""
    monkeypatch.chdir(tmp_path)
    checkpoint = build(trained(), "oc20")
    model, task = CHANGES[change]
    checkpoint.model_config = OmegaConf.merge(checkpoint.model_config, model)
    checkpoint.tasks_config[0] = OmegaConf.merge(checkpoint.tasks_config[0], task)
    torch.save(checkpoint, tmp_path / "evil.pt")
    assert f"{tmp_path / 'evil.pt'}: refused " in refused(tmp_path / "evil.pt")
    assert main(["convert", "evil.pt", "out.pt"]) == 2


def test_a_trusted_configuration_is_called(tmp_path, monkeypatch):
    checkpoint = build(trained(), "oc20")
    marker = {"_target_": "os.mkdir", "path": str(tmp_path / "marker")}
    checkpoint.tasks_config = OmegaConf.create([marker])
    torch.save(checkpoint, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(AttributeError):  # what it returns is no task
        load_tasks(tmp_path / "evil.pt")
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model_state_dict", None),
        ("model_state_dict", {"a": 1}),
        ("ema_state_dict", [1]),
        ("model_config", None),
        ("model_config", {"heads": {}}),
        ("tasks_config", {"a": 1}),
        ("tasks_config", [1]),
    ],
)
def test_parts_of_another_kind_are_named(tmp_path, part, value):
    checkpoint = build(trained(), "oc20")
    setattr(checkpoint, part, value)
    torch.save(checkpoint, tmp_path / "bad.pt")
    assert f"its {part} " in refused(tmp_path / "bad.pt")


def test_no_flipped_bit_changes_a_checkpoint(tmp_path):
    path = tmp_path / "two.pt"
    torch.save(build(trained(), "oc20"), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            model = load_inference_model(path, return_checkpoint=False)
        except InputError as error:
            assert str(error).startswith(str(path))
            continue
        path.write_bytes(whole)
        expected = load_inference_model(path, return_checkpoint=False).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_metadata_of_a_data_set_run_nothing(tmp_path, sample):
    (tmp_path / "data").mkdir()
    source = next((sample / "s2ef/val").glob("*.aselmdb"))
    (tmp_path / "data" / source.name).write_bytes(source.read_bytes())
    np.savez(tmp_path / "data/metadata.npz", natoms=np.array([Evil(tmp_path / "marker")]))
    with pytest.raises(InputError, match=r"metadata\.npz: 'natoms' cannot be read: Object arrays"):
        _ = AseDatabase({"src": str(tmp_path / "data")})._metadata
    assert not (tmp_path / "marker").exists()
