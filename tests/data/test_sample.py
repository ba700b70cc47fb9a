"""The sample data set: its layout, its physics and its failures."""

import argparse
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from fairchem.core.datasets import LmdbDataset

from ocp_scn.data import sample
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.lmdb import to_graph

SYSTEMS, SEED = 12, 3
SPLITS = ("train", "val", "test")
OOD_SYSTEMS = 2
FOLDERS = [f"{task}/{split}" for task in ("s2ef", "is2re") for split in (*SPLITS, *sample.OOD_SPLITS)]
Samples = dict[str, list]


def read(folder: Path) -> Samples:
    """Return the samples of every written folder, read as the trainers read them."""
    return {
        name: [dataset[index] for index in range(len(dataset))]
        for name in FOLDERS
        for dataset in [LmdbDataset({"src": str(folder / name)})]
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    target = tmp_path_factory.mktemp("sample") / "made"
    sizes = {"systems": SYSTEMS, "ood_systems": OOD_SYSTEMS}
    return target, sample.make_sample(target, seed=SEED, **sizes, progress=False)


@pytest.fixture(scope="module")
def samples(made) -> Samples:
    return read(made[0])


def frames_of(samples: Samples, task: str) -> list:
    return [data for split in SPLITS for data in samples[f"{task}/{split}"]]


def emt(data, positions: torch.Tensor) -> Atoms:
    """Return a sample's atoms at these positions, with a calculator."""
    return Atoms(
        data.atomic_numbers.numpy(), positions.numpy(), cell=data.cell[0].numpy(), pbc=True, calculator=EMT()
    )


def references(seed: int = SEED) -> list[float]:
    """Return the reference energy of each system."""
    return [sample.reference_energy(combination) for combination in sample.combinations(SYSTEMS, seed)]


def test_counts_are_those_of_the_folders(made, samples):
    folder, counts = made
    assert counts == {name: len(found) for name, found in samples.items()}
    for name, found in samples.items():
        natoms = np.load(folder / name / "metadata.npz")["natoms"]
        assert natoms.tolist() == [data.natoms for data in found]
    assert [counts[f"is2re/{split}"] for split in SPLITS] == [10, 1, 1]
    assert counts["s2ef/train"] >= 100


def test_splits_share_no_system(samples):
    for task in ("s2ef", "is2re"):
        sids = [{data.sid for data in samples[f"{task}/{split}"]} for split in SPLITS]
        assert sum(map(len, sids)) == len(set.union(*sids)) == SYSTEMS
    for split in SPLITS:
        systems = {data.sid for data in samples[f"is2re/{split}"]}
        assert systems == {data.sid for data in samples[f"s2ef/{split}"]}


def test_out_of_domain_splits_have_what_training_has_not(samples):
    """Adsorbates, metals or both are new, and the systems are others than those of all other splits."""
    known = {number for data in frames_of(samples, "is2re") for number in data.atomic_numbers.tolist()}
    sids = [data.sid for data in frames_of(samples, "is2re")]
    for split in sample.OOD_SPLITS:
        found = samples[f"is2re/{split}"]
        assert len(found) == OOD_SYSTEMS
        assert {data.sid for data in found} == {data.sid for data in samples[f"s2ef/{split}"]}
        sids += [data.sid for data in found]
        for data in found:
            metal, adsorbate = data.atomic_numbers[data.tags < 2], data.atomic_numbers[data.tags == 2]
            assert (13 in metal) == (split != "test_ood_ads")
            assert (adsorbate.tolist() in ([6, 7], [7, 7])) == (split != "test_ood_cat")
    assert 13 not in known
    assert sorted(sids) == list(range(SYSTEMS + 3 * OOD_SYSTEMS))


def test_identifiers_are_unique_integers(samples):
    found = [(data.sid, data.fid) for data in frames_of(samples, "s2ef")]
    assert all(type(number) is int for identifier in found for number in identifier)
    assert len(set(found)) == len(found)
    rattled = Counter(sid for sid, fid in found if fid >= sample.RATTLED_FID)
    assert rattled == dict.fromkeys(range(SYSTEMS), sample.RATTLED_FRAMES)
    assert {sid for sid, fid in found if fid == 0} == set(range(SYSTEMS))


def test_graphs_have_the_layout_of_oc20(samples):
    for data in frames_of(samples, "s2ef") + frames_of(samples, "is2re"):
        metal = data.atomic_numbers > 10
        assert set(data.tags.tolist()) == {0, 1, 2}
        assert torch.equal(data.fixed == 1, data.tags == 0)
        assert torch.equal(data.tags == 2, ~metal)
        assert data.pos[data.tags == 0, 2].max() < data.pos[data.tags == 1, 2].min()
        assert data.pbc.all()
        assert data.pos.dtype == data.cell.dtype == torch.float32
        vacuum = data.cell[0, 2, 2] - (data.pos[:, 2].max() - data.pos[:, 2].min())
        assert vacuum > 10
    for data in frames_of(samples, "s2ef"):
        assert type(data.energy) is float
        assert data.forces.dtype == torch.float32
        assert data.forces.shape == data.pos.shape


def test_energy_and_forces_are_those_of_the_stored_positions(samples):
    reference = references()
    for data in frames_of(samples, "s2ef"):
        atoms = emt(data, data.pos)
        assert data.energy == pytest.approx(atoms.get_potential_energy() - reference[data.sid], abs=1e-4)
        np.testing.assert_allclose(data.forces.numpy(), atoms.get_forces(), atol=2e-3)


def test_gas_references_are_the_energies_of_free_atoms():
    for symbol, energy in sample.REFERENCES.items():
        assert Atoms(symbol, calculator=EMT()).get_potential_energy() == pytest.approx(energy)


def test_fixed_atoms_rest_during_a_relaxation(samples):
    start = {data.sid: data for data in frames_of(samples, "is2re")}
    for data in frames_of(samples, "s2ef"):
        fixed = data.fixed == 1
        assert torch.equal(data.pos[fixed], start[data.sid].pos[fixed])
    assert any(data.forces[data.fixed == 1].abs().max() > 0.05 for data in frames_of(samples, "s2ef"))


def test_is2re_energies_are_those_of_the_first_and_last_frame(samples):
    frames: dict[int, dict[int, float]] = {}
    for data in frames_of(samples, "s2ef"):
        if data.fid < sample.RATTLED_FID:
            frames.setdefault(data.sid, {})[data.fid] = data.energy
    for data in frames_of(samples, "is2re"):
        energies = frames[data.sid]
        assert data.y_init == energies[0]
        assert data.y_relaxed == data.energy_relaxed == energies[max(energies)]
        assert data.y_relaxed < data.y_init


def test_relaxed_positions_are_a_minimum_near_the_initial_ones(samples):
    reference = references()
    for data in frames_of(samples, "is2re"):
        free = data.fixed.numpy() == 0
        atoms = emt(data, data.pos_relaxed)
        assert data.pos_relaxed.dtype == torch.float32
        assert (data.pos_relaxed - data.pos).norm(dim=1).max() < 4.0  # far below a cell vector
        assert np.linalg.norm(atoms.get_forces()[free], axis=1).max() < sample.FMAX + 1e-3
        assert atoms.get_potential_energy() - reference[data.sid] == pytest.approx(data.y_relaxed, abs=1e-4)


def test_positions_are_wrapped_and_displacements_are_not():
    """An atom that crosses the cell's border moves by its true displacement."""
    atoms = Atoms("CuH", positions=[(0, 0, 5), (-0.1, 0, 7)], cell=[4, 4, 20], pbc=True, tags=[0, 2])
    moved = atoms.positions + np.array([(0, 0, 0), (0.3, 0, 0)])
    ends = [sample.Frame(fid, pos, 0.0, 0 * pos) for fid, pos in enumerate((atoms.positions, moved))]
    atoms, properties = sample.is2re_sample(sample.System(atoms, ends, ends[1]), 0)
    data = to_graph(atoms, **properties)
    assert data.pos[1, 0].item() == pytest.approx(3.9)
    assert (data.pos_relaxed - data.pos)[1].tolist() == pytest.approx([0.3, 0, 0], abs=1e-6)


def test_structures_are_sensible(samples):
    for data in frames_of(samples, "s2ef"):
        assert abs(data.energy) <= sample.MAX_ENERGY
        assert data.forces.abs().max() <= sample.MAX_FORCE
    for data in frames_of(samples, "is2re"):
        atoms = emt(data, data.pos_relaxed)
        atoms.set_tags(data.tags.numpy())
        assert sample.intact(atoms, 1.6)


@pytest.mark.parametrize(("height", "expected"), [(1.6, True), (0.3, False), (4.0, False), (-2.0, False)])
def test_an_adsorbate_far_away_or_inside_the_slab_is_not_intact(height, expected):
    slab = sample.build_slab(sample.Combination("Cu", "O", "111", (2, 2, 3)))
    oxygen = Atoms("O", positions=[slab.positions[slab.get_tags() == 1][0] + (0, 0, height)], tags=[2])
    assert sample.intact(slab + oxygen, 1.6) is expected


@pytest.mark.parametrize("seed", [0, 1])
def test_metals_and_adsorbates_all_occur_in_training(seed):
    chosen, splits = sample.combinations(120, seed), sample.split_systems(120, seed)
    assert len(set(chosen)) == 120
    assert Counter(splits) == {"train": 96, "val": 12, "test": 12}
    train = [combination for combination, split in zip(chosen, splits, strict=True) if split == "train"]
    for values, names in (("metal", sample.METALS), ("adsorbate", sample.ADSORBATES)):
        counts = Counter(getattr(combination, values) for combination in train)
        assert min(counts[name] for name in names) >= 5
    assert max(Counter((c.metal, c.adsorbate) for c in chosen).values()) == 3


def test_same_seed_gives_the_same_system_and_another_another():
    combination = sample.combinations(SYSTEMS, SEED)[0]
    first, again, other = (sample.make_system(combination, seed, 0) for seed in (SEED, SEED, SEED + 1))
    assert pickle.dumps(first.frames) == pickle.dumps(again.frames)
    assert first.relaxed.energy != other.relaxed.energy


def test_same_seed_gives_the_same_data_set(samples):
    """Systems do not depend on those made before them, so one from the middle stands for all."""
    sid = 7
    system = sample.make_system(sample.combinations(SYSTEMS, SEED)[sid], SEED, sid)
    stored = [data for data in frames_of(samples, "s2ef") if data.sid == sid]
    for data, (atoms, properties) in zip(stored, sample.s2ef_samples(system, sid), strict=True):
        again = to_graph(atoms, **properties)
        assert data.energy == again.energy
        assert torch.equal(data.pos, again.pos)
        assert torch.equal(data.forces, again.forces)


def test_an_existing_folder_is_refused_unless_overwritten(tmp_path, monkeypatch, made):
    target = tmp_path / "here"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="here"):
        sample.make_sample(target, systems=SYSTEMS, progress=False)
    assert (target / "mine.txt").read_text() == "keep"
    system = sample.make_system(sample.combinations(SYSTEMS, SEED)[0], SEED, 0)
    monkeypatch.setattr(sample, "make_system", lambda *_: system)
    sample.make_sample(target, systems=SYSTEMS, overwrite=True, progress=False)
    assert sorted(path.name for path in target.iterdir()) == ["is2re", "s2ef"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    system = sample.make_system(sample.combinations(SYSTEMS, SEED)[0], SEED, 0)

    def fail_later(_combination, _seed, sid):
        if sid == 5:
            raise error("midway")
        return system

    monkeypatch.setattr(sample, "make_system", fail_later)
    with pytest.raises(error, match="midway"):
        sample.make_sample(tmp_path / "never", systems=SYSTEMS, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_combination_that_never_relaxes_is_named(monkeypatch):
    monkeypatch.setattr(sample, "attempt_system", lambda *_: None)
    with pytest.raises(RuntimeError, match="adsorbate='CO'"):
        sample.make_system(sample.Combination("Cu", "CO", "111", (2, 2, 2)), 0, 0)


@pytest.mark.parametrize(
    ("settings", "received"), [({"systems": 9}, "9"), ({"seed": -4}, "-4"), ({"ood_systems": -3}, "-3")]
)
def test_bad_settings_are_named(tmp_path, settings, received):
    with pytest.raises(InputError, match=received):
        sample.make_sample(tmp_path / "never", **settings, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_passes_its_arguments_and_reports(monkeypatch, capsys):
    calls = []

    def fake(target, **settings):
        calls.append((target, settings))
        return {"s2ef/train": 140}

    monkeypatch.setattr(sample, "make_sample", fake)
    parser = argparse.ArgumentParser()
    sample.add_arguments(parser)
    sample.run(parser.parse_args(["there", "--systems", "30", "--ood-systems", "4", "--overwrite"]))
    changed = {"systems": 30, "seed": 0, "ood_systems": 4, "overwrite": True, "kind": "lmdb"}
    assert calls == [(Path("there"), changed)]
    printed = capsys.readouterr().out
    assert "wrote there" in printed
    assert "140" in printed
