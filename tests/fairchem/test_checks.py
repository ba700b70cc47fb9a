"""What is found in a data set before anything is computed for it."""

from __future__ import annotations

import re
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from fairchem.core.common.flags import flags
from torch_geometric.data import Data

import ocp_scn  # noqa: F401  # registers the data set
from ocp_scn.config import SCNConfig
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.checks import _check_losses, _check_schedule
from ocp_scn.fairchem.v1.data_checks import check_samples, predicted_name, relaxed_name
from ocp_scn.fairchem.v1.launcher import load_config
from ocp_scn.fairchem.v1.normalization import float_coefficients, float_normalizers
from tests.samples import write_lmdb


def check(folder: Path, samples: list[Data], id_name: str = "id", **settings: int) -> None:
    write_lmdb(folder, samples)
    id_of = {"id": predicted_name, "sid": relaxed_name}[id_name]
    check_samples("dataset.test", {"src": str(folder), **settings}, id_name, id_of)


def sample(**values: object) -> Data:
    return Data(
        **{"natoms": 2, "atomic_numbers": torch.tensor([1, 8]), "fixed": torch.tensor([0, 1]), **values}
    )


@pytest.mark.parametrize("fids", [(0, 1), ("frame0", "frame1"), (torch.tensor(0), torch.tensor([1]))])
def test_frames_of_one_system_are_several_predictions_and_one_relaxation(tmp_path: Path, fids: tuple) -> None:
    samples = [sample(sid=7, fid=fid) for fid in fids]
    check(tmp_path / "predictions", samples)
    with pytest.raises(InputError, match="samples 0 and 1 both have sid '7'; results need distinct ones"):
        check(tmp_path / "relaxations", samples, "sid")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"sid": 1, "fid": 2}, {"sid": 1, "fid": 2}),
        (
            {"sid": torch.tensor(1), "fid": torch.tensor(2)},
            {"sid": torch.tensor([1]), "fid": torch.tensor([2])},
        ),
        ({"sid": "1_2"}, {"sid": "1_2"}),
        ({"sid": "1", "fid": "2"}, {"sid": "1", "fid": "2"}),
    ],
)
def test_one_id_of_two_samples_is_refused(tmp_path: Path, one: dict, other: dict) -> None:
    between = {name: "5" if isinstance(value, str) else value + 4 for name, value in one.items()}
    samples = [sample(**one), sample(**between), sample(**other)]
    with pytest.raises(InputError, match="samples 0 and 2 both have id '1_2'; results need distinct ones"):
        check(tmp_path, samples)
    check(tmp_path, samples, shard=0, total_shards=2)  # the other one is of another job


@pytest.mark.parametrize(
    ("one", "other"), [({"fid": 3}, {"fid": "3"}), ({"fid": 3}, {}), ({}, {"fid": 3}), ({}, {"sid": "1"})]
)
def test_ids_of_several_kinds_are_refused(tmp_path: Path, one: dict, other: dict) -> None:
    """fairchem makes no batch of them, or forgets the numbers of frames."""
    samples = [sample(**{"sid": 0, **one}), sample(**{"sid": 1, **other})]
    with pytest.raises(InputError, match=r"sample 1 has ids of .*, sample 0 of .*; fairchem cannot batch"):
        check(tmp_path, samples)


@pytest.mark.parametrize(
    ("fixed", "found"),
    [
        ([0, 1], "list"),
        (np.array([0, 1]), r"ndarray of shape \(2,\)"),
        (torch.tensor([[0], [1]]), r"Tensor of shape \(2, 1\)"),
        (torch.tensor([1]), r"Tensor of shape \(1,\)"),
    ],
)
def test_fixed_atoms_that_fairchem_does_not_take(tmp_path: Path, fixed: object, found: str) -> None:
    samples = [sample(sid=1), sample(sid=2, fixed=fixed)]
    with pytest.raises(
        InputError, match=rf"sample 1 has a fixed that is a {found}; expected a Tensor of shape"
    ):
        check(tmp_path, samples)


@pytest.mark.parametrize("sid", [None, torch.tensor([1, 2])])
def test_samples_without_an_id(tmp_path: Path, sid: torch.Tensor | None) -> None:
    with pytest.raises(InputError, match=r"dataset.test.src=.*: sample 1 "):
        check(tmp_path, [sample(sid=torch.tensor([0])), sample(sid=sid)])


def test_a_damaged_sample(tmp_path: Path) -> None:
    write_lmdb(tmp_path, [sample(sid=0), sample(sid=1)])
    environment = lmdb.open(str(tmp_path / "data.lmdb"), subdir=False)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"1", b"noise")
    with pytest.raises(InputError, match="sample 1 cannot be read: "):
        check_samples("dataset.test", {"src": str(tmp_path)}, "id", predicted_name)


def test_a_sample_without_atoms_is_named(tmp_path: Path) -> None:
    nothing = {"natoms": 0, "atomic_numbers": torch.zeros(0), "fixed": torch.zeros(0)}
    with pytest.raises(InputError, match=r"sample 1 \(id '8'\) has no atoms"):
        check(tmp_path, [sample(sid=7), sample(sid=8, **nothing)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 0}, "optim.max_epochs=0; expected an integer of at least 1"),
        ({"lr_initial": -1e-3}, "optim.lr_initial=-0.001; expected a number above 0"),
        ({"lr_initial": float("nan")}, "optim.lr_initial=nan; expected a number"),
        ({"lr_gamma": 0}, "optim.lr_gamma=0; expected a number above 0"),
        ({"eval_every": 0}, "optim.eval_every=0; expected an integer of at least 1"),
        ({"eval_every": None}, "optim.eval_every=None; expected an integer of at least 1"),
        ({"batch_size": 0}, "optim.batch_size=0; expected an integer of at least 1"),
        ({"eval_batch_size": 2.5}, "optim.eval_batch_size=2.5; expected an integer of at least 1"),
        ({"num_workers": -1}, "optim.num_workers=-1; expected an integer of at least 0"),
        ({"lr_initial": "4e-4"}, "optim.lr_initial='4e-4'; expected a number above 0"),
        ({"clip_grad_norm": float("inf")}, "optim.clip_grad_norm=inf; expected a number above 0"),
        ({"weight_decay": -1}, "optim.weight_decay=-1; expected a number of at least 0"),
        ({"ema_decay": 1.0}, "optim.ema_decay=1.0; expected a float from 0.0 to below 1"),
        ({"ema_decay": 0}, "optim.ema_decay=0; expected a float from 0.0 to below 1"),
        ({"eval_every": 5}, "ends after 4 steps, before optim.eval_every=5: nothing would be saved"),
        (
            {"checkpoint_every": 5},
            "ends after 4 steps, before optim.checkpoint_every=5: nothing",
        ),
        ({"checkpoint_every": -2}, "optim.checkpoint_every=-2; expected an integer of at least 1"),
    ],
)
def test_schedules_that_train_or_save_nothing(changes: dict[str, float], message: str) -> None:
    optim = {"max_epochs": 2, "batch_size": 4, "lr_initial": 1e-3}  # four steps
    _check_schedule({"optim": {**optim, "checkpoint_every": -1}}, 8)
    _check_schedule({"optim": {**optim, "checkpoint_every": 4}}, 8)
    with pytest.raises(InputError, match=re.escape(message)):
        _check_schedule({"optim": optim | changes}, 8)


def test_normalizers_and_coefficients_that_scale_nothing() -> None:
    with pytest.raises(InputError, match=r"normalizer.energy.stdev=0; expected a number above 0"):
        float_normalizers({"energy": {"mean": 0, "stdev": 0}})
    with pytest.raises(InputError, match=r"energy.coefficient=-2; expected a number of at least 0"):
        float_coefficients([{"energy": {"fn": "mae", "coefficient": -2}}])


def test_an_override_of_a_section_that_nothing_reads() -> None:
    words = ["--mode", "train", "--config-yml", "configs/s2ef/example/scn.yml", "--foo.bar=1"]
    args, overrides = flags.get_parser().parse_known_args(words)
    with pytest.raises(InputError, match=r"override '--foo.bar=1': nothing reads 'foo'; expected dataset"):
        load_config(args, overrides)


def test_a_section_of_a_file_that_nothing_reads(tmp_path: Path) -> None:
    text = Path("configs/s2ef/example/scn.yml").read_text()
    (tmp_path / "a.yml").write_text(text.replace("\noutputs:", "\noutput:"))
    words = ["--mode", "train", "--config-yml", str(tmp_path / "a.yml")]
    args, overrides = flags.get_parser().parse_known_args(words)
    message = r"a\.yml has 'output', which nothing reads; did you mean 'outputs'\?"
    with pytest.raises(InputError, match=message):
        load_config(args, overrides)


def test_each_readout_has_a_loss() -> None:
    losses = [{"energy": {"fn": "mae", "coefficient": 1}}]
    message = "no 'forces', for which the model has weights of its own; .* set model.regress_forces: False"
    with pytest.raises(InputError, match=message):
        _check_losses(losses, SCNConfig())
    for found, settings in (
        ([*losses, {"forces": {"fn": "mae", "coefficient": 0}}], SCNConfig()),
        (losses, SCNConfig(direct_forces=False)),
        ({}, SCNConfig()),  # of 2022
    ):
        _check_losses(found, settings)
