"""The names of the model in fairchem's registry, in this process and in others."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from fairchem.core import _cli
from fairchem.core.common.registry import registry
from submitit.core.utils import DelayedSubmission

import ocp_scn
from ocp_scn.fairchem.v1.launcher import Runner, main
from ocp_scn.fairchem.v1.lmdb import to_graph
from tests.samples import write_lmdb

ROOT = Path(__file__).parents[2]
BUILT_IN = "fairchem.core.models.scn.scn.SphericalChannelNetwork"


def python(code, cwd):
    """Run ``code`` in a fresh interpreter, in a folder where no file of this package is in reach."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["ocp_scn", "scn"])
def test_names(name):
    """Both names mean this package's model."""
    assert registry.get_model_class(name) is ocp_scn.SphericalChannelNetwork


def test_other_names_can_still_be_registered():
    """Registering twice is harmless, and models of others register as ever."""
    from ocp_scn.fairchem.v1.registration import register

    register()
    register()
    registry.register_model("another")(dict)
    try:
        assert registry.get_model_class("another") is dict
        assert registry.get_model_class("scn") is ocp_scn.SphericalChannelNetwork
    finally:
        del registry.mapping["model_name_mapping"]["another"]


def test_built_in_model_imported_first(tmp_path):
    """The built-in model registers as scn; importing ocp_scn afterwards takes the name over."""
    python(
        f"""
        from fairchem.core.models.scn.scn import SphericalChannelNetwork as BuiltIn
        from fairchem.core.common.registry import registry
        assert registry.get_model_class("scn") is BuiltIn
        import ocp_scn
        for name in ("scn", "ocp_scn"):
            assert registry.get_model_class(name) is ocp_scn.SphericalChannelNetwork
        assert registry.get_model_class("{BUILT_IN}") is BuiltIn
        """,
        tmp_path,
    )


def test_built_in_model_imported_afterwards(tmp_path):
    """ocp_scn imports no model family and no torch-sparse; the built-in SCN, imported later, yields."""
    python(
        f"""
        import sys
        import ocp_scn
        families = {{name.split(".")[3] for name in sys.modules if name.startswith("fairchem.core.models.")}}
        assert families <= {{"base", "model_registry"}}, families
        assert "torch_sparse" not in sys.modules
        from fairchem.core.common.registry import registry
        built_in = registry.get_model_class("{BUILT_IN}")
        assert built_in.__module__ == "fairchem.core.models.scn.scn"
        for name in ("scn", "ocp_scn"):
            assert registry.get_model_class(name) is ocp_scn.SphericalChannelNetwork is not built_in
        """,
        tmp_path,
    )


def test_set_up_of_fairchem_is_done(tmp_path):
    """What fairchem's set-up would import is there: trainers, data sets, tasks and loggers by their names."""
    python(
        """
        import sys
        import ocp_scn
        from fairchem.core.common.registry import registry
        from fairchem.core.common.utils import setup_imports
        setup_imports()
        assert registry.get_model_class("scn") is ocp_scn.SphericalChannelNetwork
        assert "fairchem.core.models.gemnet" not in sys.modules
        for lookup, names in (
            (registry.get_trainer_class, ["ocp", "energy", "forces"]),
            (registry.get_dataset_class, ["lmdb", "ase_db"]),
            (registry.get_task_class, ["train", "predict", "validate", "run-relaxations"]),
            (registry.get_logger_class, ["tensorboard", "wandb"]),
        ):
            for name in names:
                assert lookup(name) is not None
        """,
        tmp_path,
    )


def test_command_line_of_fairchem_is_itself_again(tmp_path, monkeypatch):
    """What runs of this package put in its place is there while they run, and no longer."""
    before, seen = dict(vars(_cli)), {}
    monkeypatch.setattr(_cli, "main", lambda args, overrides: seen.update(vars(_cli)))
    h2o = molecule("H2O", vacuum=4.0)
    write_lmdb(tmp_path / "data", [to_graph(h2o, sid=0, fid=0, energy=0.0, forces=torch.zeros(3, 3))])
    sources = [f"--dataset.{split}.src={tmp_path / 'data'}" for split in ("train", "val", "test")]
    config = str(ROOT / "configs/s2ef/example/scn.yml")
    words = ["--mode", "train", "--config-yml", config, "--debug", "--cpu", "--run-dir", str(tmp_path)]
    assert main([*words, *sources]) == 0
    assert seen["Runner"] is Runner
    monkeypatch.undo()
    assert vars(_cli) == before


def test_submitted_job_registers_the_model(tmp_path):
    """A job as submitit writes it, read in a fresh process, makes the names mean this package's model."""
    job = tmp_path / "job.pkl"
    DelayedSubmission(Runner(), {"model": {"name": "scn"}}).dump(job)
    python(
        """
        import sys
        from submitit.core.utils import DelayedSubmission
        assert "ocp_scn" not in sys.modules
        job = DelayedSubmission.load("job.pkl")
        assert type(job.function).__module__ == "ocp_scn.fairchem.v1.launcher"
        assert job.args == ({"model": {"name": "scn"}},)
        from fairchem.core.common.registry import registry
        for name in ("scn", "ocp_scn"):
            assert registry.get_model_class(name).__module__ == "ocp_scn.fairchem.v1.model"
        """,
        tmp_path,
    )
