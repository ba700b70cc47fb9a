"""The plan of the ablations, and its runs on a data set of four structures."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from ase import Atoms
from fairchem.core.common.registry import registry

from benchmarks import ablation
from benchmarks.models import predict
from benchmarks.structures import slabs
from ocp_scn.fairchem.v1.lmdb import to_graph
from tests.samples import write_lmdb

RECORD = {"seed": 0, "energy_mae": 1.0, "forces_mae": 0.25, "forces_cosine_similarity": 0.5, "minutes": 1.0}


@pytest.fixture
def data(tmp_path):
    """Two folders of four structures each."""
    generator = np.random.default_rng(0)
    for split in ("train", "val_id"):
        samples = []
        for sid in range(4):
            pos = generator.uniform(0, 3, (5, 3))
            atoms = Atoms("Cu3HO", pos, cell=np.eye(3) * 8, pbc=True)
            samples.append(
                to_graph(atoms, sid=sid, fid=0, energy=1.0 * sid, forces=generator.normal(size=(5, 3)))
            )
        write_lmdb(tmp_path / split, samples)
    return tmp_path


def test_claims_have_three_seeds_and_the_rest_two():
    plan = list(ablation.planned())
    seeds = {name: sum(other == name for other, _ in plan) for name in ablation.experiments()}
    assert len(set(plan)) == len(plan)
    for name in ("base", "m = 0", "4 taps", "2 bands", "gradient forces", "PaiNN", "base, 1/4 of the data"):
        assert seeds[name] == 3
    assert set(seeds.values()) == {2, 3}
    assert [seed for _, seed in plan] == sorted(seed for _, seed in plan)


def test_parts_of_the_data_have_as_many_steps(tmp_path):
    steps = set()
    for part in ablation.PARTS:
        config = ablation.configuration(ablation.Experiment(sample=part), tmp_path)
        steps.add(config["dataset"]["train"]["sample_n"] * config["optim"]["max_epochs"])
    assert len(steps) == 1


@pytest.mark.parametrize("peer", ablation.PEERS)
def test_peers_predict(peer):
    if peer == "PaiNN" and importlib.util.find_spec("torch_sparse") is None:
        pytest.skip("fairchem's PaiNN imports torch-sparse")
    settings = ablation.peers()[peer]
    model = registry.get_model_class(settings.pop("name"))(**settings).eval()
    batch = slabs(12, 2)
    energy, forces = predict(model, batch)
    assert energy.shape == (2,)
    assert forces.shape == batch.pos.shape
    assert torch.isfinite(forces).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient forces", "EquiformerV2"])
def test_runs_are_trained_and_measured(name, data, monkeypatch):
    protocol = ablation.configuration

    def small(experiment, folder):
        config = protocol(experiment, folder)
        config["dataset"]["train"]["sample_n"] = 4
        config["dataset"]["train"]["transforms"]["element_references"]["fit"]["num_batches"] = 1
        config["optim"] |= {"max_epochs": 2, "eval_every": 2}
        return config

    monkeypatch.setattr(ablation, "configuration", small)
    record = ablation.train(name, 1, data)
    assert (record["experiment"], record["seed"], record["steps"]) == (name, 1, 2)
    assert record["forces_mae"] > 0
    assert record["parameters"] > 1000


def test_nothing_is_trained_twice(tmp_path, monkeypatch, capsys):
    """With all runs but one there, that one is trained, and the table has the spread of the seeds."""
    results, figure = tmp_path / "results.json", tmp_path / "figure.png"
    runs = [{**RECORD, "experiment": name, "seed": seed} for name, seed in ablation.planned()]
    results.write_text(json.dumps([run for run in runs if (run["experiment"], run["seed"]) != ("base", 1)]))
    (tmp_path / "train").mkdir()
    trained = []

    def train(name, seed, data):
        trained.append((name, seed, data))
        return {**RECORD, "experiment": name, "seed": seed, "forces_cosine_similarity": 0.8}

    monkeypatch.setattr(ablation, "train", train)
    words = ["--data", str(tmp_path), "--results", str(results), "--figure", str(figure)]
    assert ablation.main(words) == 0
    assert trained == [("base", 1, tmp_path)]
    assert len(json.loads(results.read_text())) == len(runs)
    assert "| base | 3 | 1 ± 0 | 0.25 ± 0 | 0.6 ± 0.17 | 1 |" in capsys.readouterr().out
    assert figure.stat().st_size > 10_000


def test_missing_data_are_named(tmp_path, capsys):
    assert ablation.main(["--data", str(tmp_path)]) == 2
    assert f"--data {tmp_path} has no folder 'train'" in capsys.readouterr().err
