"""Relaxations in a harmonic well, and the files and metrics of relaxed structures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from fairchem.core.datasets import data_list_collater
from torch_geometric.data import Data

from ocp_scn.data.frames import read_frames
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.data_checks import relaxed_name
from ocp_scn.fairchem.v1.lmdb import to_graph
from ocp_scn.fairchem.v1.relaxations import (
    Relaxed,
    Results,
    read_relaxed,
    relax,
    relaxation_metrics,
    relaxation_settings,
    to_atoms,
    write_relaxed,
)

WELL = torch.tensor([5.0, 5.0, 5.0])  # each system's second atom is drawn there, its first is fixed
FAR = {"far": 0.5, "near": 0.2, "there": 0.001}  # Å from the well at the start
FMAX = 0.01


def system(sid: str, distance: float) -> Data:
    atoms = Atoms("CuH", positions=[[1.0, 1.0, 1.0], [5.0, 5.0, 5.0 + distance]], cell=[8, 8, 8], pbc=True)
    atoms.set_constraint(FixAtoms([0]))
    data = to_graph(atoms, sid=sid)
    data.pos_relaxed = torch.tensor([[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
    data.energy_relaxed = 0.25
    return data


def predict(batch: Any, well: torch.Tensor = WELL, **_: Any) -> dict[str, torch.Tensor]:
    """Energy 0.25 + d²/2 and force -d for the distance d of each second atom, and a pull on each first."""
    away = batch.pos[1::2] - well
    forces = torch.stack([torch.ones_like(away), -away], dim=1).view(-1, 3)
    return {"energy": 0.25 + away.pow(2).sum(1, keepdim=True) / 2, "forces": forces}


TRAINER = SimpleNamespace(
    predict=predict, collater=partial(data_list_collater, otf_graph=True), device=torch.device("cpu")
)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("pbc", [True, False])
def test_every_trajectory_ends_with_its_relaxed_structure(tmp_path: Path, full: bool, pbc: bool) -> None:
    systems = [system(sid, distance) for sid, distance in FAR.items()]
    if not pbc:
        for data in systems:
            del data.pbc
    optimizer = {"maxstep": 0.1, "alpha": 2.0, "damping": 1.0, "traj_dir": str(tmp_path)}
    task = {"relaxation_fmax": FMAX, "relax_opt": optimizer, "save_full_traj": full}
    relaxed = relax(TRAINER, systems, relaxation_settings(task))
    assert list(relaxed) == list(FAR)
    frames = {sid: ase.io.read(tmp_path / f"{sid}.traj", ":") for sid in FAR}
    for sid, (positions, energy) in relaxed.items():
        last = frames[sid][-1]
        assert np.array_equal(positions[0], [1.0, 1.0, 1.0])
        assert np.linalg.norm(positions[1] - 5.0) < FMAX
        assert energy == pytest.approx(0.25, abs=1e-4)
        assert last.get_potential_energy() == energy
        assert np.allclose(last.positions, positions, atol=1e-12)
        assert frames[sid][0].positions[1, 2] == pytest.approx(5.0 + FAR[sid])
    assert len(frames["there"]) == 1
    if full:
        assert len(frames["far"]) > len(frames["near"]) > 2
        # No frame comes twice.
        assert all(
            len({atoms.positions.tobytes() for atoms in frames[sid]}) == len(frames[sid]) for sid in FAR
        )
    else:
        assert len(frames["far"]) == len(frames["near"]) == 2


@pytest.mark.parametrize("distance", [0.3, 0.001])
def test_names_of_systems_are_names_of_files_in_the_folder(tmp_path: Path, distance: float) -> None:
    """Whatever a name has in it, and whether or not a step is needed; converting the files gives it back."""
    names = ["Cu/O", "../up", "/tmp/up", "a b", "50%2F", "..", ".hidden", "x.y", "müde", "a\\b\n"]
    folder = tmp_path / "run/trajectories"
    optimizer = {"maxstep": 0.1, "alpha": 2.0, "damping": 1.0, "traj_dir": str(folder)}
    settings = relaxation_settings({"relaxation_fmax": FMAX, "relax_opt": optimizer})
    relaxed = relax(TRAINER, [system(name, distance) for name in names], settings)
    assert list(relaxed) == names
    assert sorted(path.suffix for path in folder.iterdir()) == [".traj"] * len(names)
    assert {frame.sid for frame in read_frames(sorted(folder.iterdir()))} == set(names)
    results = Results(tmp_path / "run")
    for name in names:
        results.add({name: relaxed[name]})
    assert set(results.read()) == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"trajectories", "relaxed_parts"}


@pytest.mark.parametrize(("name", "length"), [("", 0), ("a" * 241, 241), ("/" * 81, 243)])
def test_names_that_no_file_can_have(name: str, length: int) -> None:
    with pytest.raises(InputError, match=f"has {length} characters as a file's name; expected 1 to 240"):
        relaxed_name(Data(sid=name))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_trajectories_have_the_boundaries_and_positions_of_the_results(
    tmp_path: Path, full: bool, pbc: tuple[int, int, int]
) -> None:
    """A molecule, a slab, a wire and a crystal, whose second atom leaves the cell or does not move."""
    systems = []
    for sid, start in (("out", 0.1), ("there", -0.1)):
        atoms = Atoms("OH", positions=[[0.4, 0.5, 1.1], [start] * 3], pbc=pbc)
        atoms.cell = 8.0 * np.diag(pbc)
        atoms.set_constraint(FixAtoms([0]))
        data = to_graph(atoms, sid=sid)
        data.pos = torch.tensor(atoms.positions, dtype=torch.float32)
        systems.append(data)
    systems[1].cell[0][~systems[1].pbc] = 0.0  # vectors that other readers leave at zero
    optimizer = {"maxstep": 0.1, "alpha": 2.0, "damping": 1.0, "traj_dir": str(tmp_path)}
    task = {"relaxation_fmax": FMAX, "relax_opt": optimizer, "save_full_traj": full}
    pull = partial(predict, well=torch.full((3,), -0.1))
    relaxed = relax(SimpleNamespace(**{**vars(TRAINER), "predict": pull}), systems, relaxation_settings(task))
    for data in systems:
        frames = ase.io.read(tmp_path / f"{data.sid}.traj", ":")
        assert np.array_equal(frames[0].positions, data.pos.numpy())
        assert np.array_equal(frames[-1].positions, relaxed[data.sid].positions)
        assert relaxed[data.sid].positions[1] == pytest.approx(-0.1, abs=FMAX)
        assert len({frame.get_potential_energy() for frame in frames}) == len(frames)
        for frame in frames:
            assert frame.pbc.tolist() == data.pbc.tolist() == list(map(bool, pbc))
            assert np.array_equal(frame.cell, data.cell[0].numpy())
            assert frame.get_distance(0, 1) == pytest.approx(np.linalg.norm(np.subtract(*frame.positions)))
            assert frame.get_forces(apply_constraint=False).shape == (2, 3)


def test_systems_of_one_atom_keep_their_forces_and_stress(tmp_path: Path) -> None:
    """fairchem takes forces of as many atoms as there are systems for one number each."""
    systems = [to_graph(Atoms("H", positions=[[x, 0, 0]], cell=[8, 8, 8], pbc=True), sid=x) for x in (1, 2)]
    batch = data_list_collater(systems, otf_graph=True)
    stress = torch.arange(18.0).view(2, 9)
    found = to_atoms(batch, {"energy": torch.ones(2, 1), "forces": -batch.pos, "stress": stress})
    assert [atoms.get_forces().tolist() for atoms in found] == [[[-1.0, 0.0, 0.0]], [[-2.0, 0.0, 0.0]]]
    assert found[1].get_stress().tolist() == [9.0, 13.0, 17.0, 15.0, 13.0, 11.0]


def test_file_keeps_every_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    systems = {
        sid: Relaxed(generator.normal(size=(n, 3)), generator.normal()) for n, sid in enumerate("cab", 1)
    }
    write_relaxed(tmp_path / "relaxed.npz", systems)
    file = np.load(tmp_path / "relaxed.npz")
    assert file["ids"].tolist() == ["a", "b", "c"]
    assert file["chunk_idx"].tolist() == [2, 5]
    found = read_relaxed(tmp_path / "relaxed.npz")
    assert all(np.array_equal(found[sid].positions, systems[sid].positions) for sid in "abc")
    assert all(found[sid].energy == systems[sid].energy for sid in "abc")
    assert [path.name for path in tmp_path.iterdir()] == ["relaxed.npz"]


def test_file_of_fairchem_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "relaxed.npz", ids=["a"], pos=np.zeros((1, 3)), chunk_idx=[])
    with pytest.raises(InputError, match="has no 'energy'; it has ids, pos, chunk_idx"):
        read_relaxed(tmp_path / "relaxed.npz")


def test_results_are_kept_part_by_part(tmp_path: Path) -> None:
    results = Results(tmp_path)
    systems = {sid: Relaxed(np.full((2, 3), float(n)), float(n)) for n, sid in enumerate("abcd")}
    assert results.read() == {}
    results.add({sid: systems[sid] for sid in "ca"})
    results.add({sid: systems[sid] for sid in "bd"})
    assert set(Results(tmp_path).read()) == set("abcd")
    results.finish(systems)
    assert [path.name for path in tmp_path.iterdir()] == ["relaxed_positions.npz"]
    assert set(results.read()) == set("abcd")


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    results, settings = Results(tmp_path), relaxation_settings({"relax_opt": {"traj_dir": "here"}})
    results.claim(settings, data={"src": "data"}, weights="a", write=True)
    elsewhere = relaxation_settings({"relax_opt": {"traj_dir": "elsewhere"}})
    results.claim(elsewhere, data={"src": "data"}, weights="a", write=True)  # does not change a result
    with pytest.raises(InputError, match="with weights='a', not 'b'; choose another --timestamp-id"):
        results.claim(settings, data={"src": "data"}, weights="b", write=True)
    with pytest.raises(InputError, match="with steps=300, not 10"):
        results.claim({**settings, "steps": 10}, data={"src": "data"}, weights="a", write=True)
    shard = {"src": "data", "shard": 0, "total_shards": 2}
    with pytest.raises(InputError, match="with shard=None, not 0"):
        results.claim(settings, data=shard, weights="a", write=True)


def test_metrics_compare_free_atoms_with_their_nearest_images() -> None:
    data = system("one", 0.3)
    positions = data.pos.double().numpy()
    positions[0] += 1.0  # fixed: not compared
    positions[1, 0] += 8.0  # another image
    metrics = relaxation_metrics([data, system("missing", 0.1)], {"one": Relaxed(positions, 0.75)})
    assert metrics["is2re_energy_mae"] == pytest.approx(0.5)
    assert metrics["is2rs_positions_mae"] == pytest.approx(0.1)
    # 0.3 Å off: within 199 of fairchem's 490 thresholds from 0.01 Å on.
    assert metrics["is2rs_positions_average_distance_within_threshold"] == pytest.approx(199 / 490, abs=0.003)
    data.y_relaxed = data.energy_relaxed  # as OC20 calls it
    del data.energy_relaxed
    assert relaxation_metrics([data], {"one": Relaxed(positions, 0.75)}) == metrics
    assert relaxation_metrics([Data(sid="one")], {"one": Relaxed(positions, 0.75)}) == {}
