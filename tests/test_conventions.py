"""One short test for each line of docs/conventions.md, under the line's number."""

import dataclasses
import json
import math
import pickle
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCartesian, FixCom, FixScaled
from ase.io import write
from e3nn import o3
from fairchem.core.datasets import LmdbDataset
from fairchem.core.modules.normalization.element_references import create_element_references
from fairchem.core.modules.normalization.normalizer import Normalizer, create_normalizer
from fairchem.core.preprocessing import AtomsToGraphs
from torch_geometric.data import Batch, Data

from ocp_scn import InputError, SCNCalculator, SCNConfig, SphericalChannelNetwork, torch_files
from ocp_scn.data.__main__ import main
from ocp_scn.data.constraints import held_atoms
from ocp_scn.data.frames import find_files, read_frames
from ocp_scn.data.labels import LabelKeys, read_labels
from ocp_scn.fairchem.neighbors import find_edges
from ocp_scn.fairchem.scales import scale_of
from ocp_scn.fairchem.training_data import KnownElements
from ocp_scn.fairchem.v1 import finetuning
from ocp_scn.fairchem.v1.data_checks import check_samples, predicted_name
from ocp_scn.fairchem.v1.normalization import check_derivatives
from ocp_scn.fairchem.v1.relaxations import to_atoms
from ocp_scn.graph import build_graph, sort_by_target
from ocp_scn.nn import GridAggregation, MessageBlock, SphereReadout, sphere_samples
from ocp_scn.predict import predict_file
from ocp_scn.predictions import structure_name
from ocp_scn.sphere import (
    coefficients_to_grid,
    density_weights,
    edge_frames,
    grid_points_shape,
    grid_to_coefficients,
    kept_orders,
    num_coefficients,
    polar_rotation,
    spherical_harmonics,
    spiral_points,
    wigner_rows,
)
from ocp_scn.submission.results import read_results
from ocp_scn.submission.structures import read_structures
from ocp_scn.trained import Trained, to_fairchem1
from ocp_scn.unpickling import loads
from tests.fairchem.test_normalization import AGREE, saved, trainer
from tests.malice import Evil
from tests.messages import edge_messages, rotate_back, rotate_rows
from tests.samples import write_lmdb
from tests.test_calculator import trained
from tests.weights import strengthen

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
LMAX = 4
POLE = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(50, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(2)
    return SphericalChannelNetwork(
        lmax=3,
        num_interactions=1,
        hidden_channels=16,
        sphere_channels=8,
        sphere_channels_reduce=8,
        num_basis_functions=8,
        num_sphere_samples=16,
        cutoff=6.0,
        distance_resolution=0.5,
        otf_graph=True,
    ).eval()


def structure(*, dtype=torch.float32, **overrides):
    """Return a batch of one cell with three atoms."""
    data = Data(
        pos=torch.tensor([[0.1, 0.2, 0.3], [1.9, 0.4, 0.2], [0.5, 2.1, 1.7]], dtype=dtype),
        cell=5 * torch.eye(3, dtype=dtype)[None],
        atomic_numbers=torch.tensor([29, 8, 1]),
        natoms=3,
        pbc=torch.tensor([[True, True, True]]),
    )
    for name, value in overrides.items():
        data[name] = value
    return Batch.from_data_list([data])


def test_page_and_tests_have_the_same_numbers():
    rows = re.findall(r"^\| C(\d+) \|.*\| `(test_c(\d+)_\w+)` \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert all(int(number) == int(in_name) for number, _, in_name in rows)
    here = [name for name in globals() if re.match(r"test_c\d+_", name)]
    assert here == [name for _, name, _ in rows]


def test_c01_harmonics(vectors):
    degrees = list(range(LMAX + 1))
    expected = o3.spherical_harmonics(degrees, vectors, normalize=False, normalization="integral")
    assert torch.allclose(spherical_harmonics(vectors, LMAX), expected, rtol=1e-12, atol=1e-12)


def test_c02_flat_index():
    flat = {pair: index for index, pair in enumerate(kept_orders(LMAX, LMAX))}
    assert all(index == degree**2 + degree + m for (degree, m), index in flat.items())
    assert num_coefficients(LMAX) == len(flat) == (LMAX + 1) ** 2


def test_c03_polar_axis(vectors):
    values = spherical_harmonics(vectors, LMAX)
    assert torch.allclose(values[:, 1:4], math.sqrt(3 / (4 * math.pi)) * vectors)
    turned = spherical_harmonics(vectors @ polar_rotation(torch.tensor(0.7)).double().T, LMAX)
    zonal = [degree**2 + degree for degree in range(LMAX + 1)]
    assert torch.allclose(values[:, zonal], turned[:, zonal], atol=1e-5)
    azimuth = torch.tensor(0.3, dtype=torch.float64)  # from +z to +x
    on_equator = torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()])
    sine, cosine = spherical_harmonics(on_equator, 2)[[4, 8]]  # (2, -2) and (2, 2)
    assert torch.atan2(sine, cosine).item() == pytest.approx(0.6)


def test_c04_edge_direction():
    data = structure(edge_index=torch.tensor([[2], [0]]), cell_offsets=torch.tensor([[1, 0, -1]]))
    source, target, vec = find_edges(data, SCNConfig(otf_graph=False))
    assert (source.tolist(), target.tolist()) == ([2], [0])
    assert torch.allclose(vec[0], data.pos[2] - data.pos[0] + torch.tensor([5.0, 0.0, -5.0]))


def test_c05_edge_frame(vectors):
    frames = edge_frames(vectors, vectors[:, 0])
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    assert torch.allclose(torch.einsum("eij,ej->ei", frames, directions), POLE.expand(50, 3), atol=1e-13)
    assert torch.allclose(frames.det(), torch.ones(50, dtype=torch.float64))


def test_c06_roll(vectors):
    roll = vectors[:, 1]
    expected = polar_rotation(roll) @ edge_frames(vectors, torch.zeros_like(roll))
    assert torch.allclose(edge_frames(vectors, roll), expected, atol=1e-13)
    turned = polar_rotation(torch.tensor(math.pi / 2)) @ torch.tensor([1.0, 2.0, 0.0])
    assert torch.allclose(turned, torch.tensor([0.0, 2.0, 1.0]), atol=1e-6)


def test_c07_wigner_matrix(vectors):
    frames = edge_frames(vectors, vectors[:, 0])
    rows = wigner_rows(frames, LMAX, LMAX)
    values = spherical_harmonics(vectors.flip(0), LMAX)[..., None]
    turned = spherical_harmonics(torch.einsum("eij,ej->ei", frames, vectors.flip(0)), LMAX)[..., None]
    assert torch.allclose(rotate_rows(rows, values), turned, atol=1e-9)
    assert torch.allclose(rotate_back(rows, turned), values, atol=1e-9)


def test_c08_kept_orders(vectors):
    assert kept_orders(2, 1) == [(0, 0), (1, -1), (1, 0), (1, 1), (2, -1), (2, 0), (2, 1)]
    frames = edge_frames(vectors, vectors[:, 0])
    signal = torch.randn(50, num_coefficients(LMAX), 2, dtype=torch.float64)
    everything = rotate_rows(wigner_rows(frames, LMAX, LMAX), signal)
    kept = [degree**2 + degree + m for degree, m in kept_orders(LMAX, 1)]
    assert torch.allclose(rotate_rows(wigner_rows(frames, LMAX, 1), signal), everything[:, kept])


def test_c09_ranks():
    distance = torch.tensor([3.0, 1.0, 2.0, 2.0, 1.0])
    target = torch.tensor([0, 0, 0, 0, 1])
    order, rank = sort_by_target(distance, target)
    assert order.tolist() == [1, 2, 3, 0, 4]
    assert rank.tolist() == [0, 1, 2, 3, 0]
    vec = torch.stack([distance, 0 * distance, 0 * distance], dim=1)
    graph = build_graph(torch.arange(5), target, vec, num_resolutions=1, max_num_neighbors=2)
    assert graph.source.tolist() == [1, 2, 4]


def test_c10_resolutions():
    distance = torch.arange(20, 0, -1.0)
    vec = torch.stack([distance, 0 * distance, 0 * distance], dim=1)
    target = torch.zeros(20, dtype=torch.long)
    graph = build_graph(torch.arange(20), target, vec, num_resolutions=2, max_num_neighbors=20)
    assert graph.sizes == (12, 8)
    assert graph.source.tolist() == [*range(19, 7, -1), *range(7, -1, -1)]
    degrees = {lmax: SCNConfig(lmax=lmax, hidden_channels=256).resolutions for lmax in (3, 5, 6, 8)}
    assert degrees == {
        3: [(3, 256), (3, 64)],
        5: [(5, 256), (4, 64)],
        6: [(6, 256), (4, 64)],
        8: [(8, 256), (6, 64)],
    }


def test_c11_taps(vectors):
    assert [SCNConfig(mmax=m, num_taps=-1).taps for m in (0, 1, 2)] == [1, 4, 8]
    sizes = {"lmax": LMAX, "mmax": 1, "channels": 3, "hidden": 8, "num_features": 5}
    many, one = (MessageBlock(num_taps=taps, **sizes).double() for taps in (4, 1))
    one.load_state_dict(many.state_dict())
    x = torch.randn(4, num_coefficients(LMAX), 3, dtype=torch.float64)
    features = torch.randn(50, 5, dtype=torch.float64)
    source, target = torch.arange(50) % 4, torch.arange(50) % 3

    def message(block, roll):
        frames = edge_frames(vectors, torch.full((50,), roll, dtype=torch.float64))
        return edge_messages(block, x, features, source, target, wigner_rows(frames, LMAX, 1))

    expected = torch.stack([message(one, 2 * math.pi * t / 4) for t in range(4)]).mean(0)
    assert torch.allclose(message(many, 0.0), expected, atol=1e-12)


def test_c12_bands():
    block = GridAggregation(lmax=LMAX, num_bands=3, channels=2).double()
    x, messages = torch.randn(2, 1, num_coefficients(LMAX), 2, dtype=torch.float64).unbind()
    on_grid = []
    for signal in (x, messages):
        for j in range(3):
            cut = signal.clone()
            cut[:, (LMAX - j + 1) ** 2 :] = 0
            on_grid.append(block.to_grid @ cut)
    expected = torch.cat(on_grid, dim=-1) @ block.fc1.weight.T
    both, update = torch.cat([x, messages], dim=-1), block._update(x)
    maps = update._maps_of_bands(block.fc1.weight)
    for dim in (0, 1):  # of the coefficients
        step = update._replace(dim=dim)
        found = step._first_map(both.transpose(1, dim), maps).transpose(1, dim)
        assert torch.allclose(block.to_grid @ found, expected)


def test_c13_grid():
    assert grid_points_shape(6) == (14, 15)
    to_grid, from_grid = coefficients_to_grid(LMAX), grid_to_coefficients(LMAX)
    assert len(to_grid) == math.prod(grid_points_shape(LMAX))
    assert torch.allclose(from_grid @ to_grid, torch.eye((LMAX + 1) ** 2, dtype=torch.float64), atol=1e-6)


def test_c14_sphere_points():
    points = spiral_points(8)
    index = torch.arange(8, dtype=torch.float64)
    azimuth = torch.remainder(2 * math.pi * index / ((1 + math.sqrt(5)) / 2), 2 * math.pi)
    assert torch.allclose(points[:, 2], 1 - 2 * (index + 0.5) / 8)
    assert torch.allclose(torch.remainder(torch.atan2(points[:, 1], points[:, 0]), 2 * math.pi), azimuth)


def test_c15_point_scaling():
    points = spiral_points(128)
    weights = density_weights(points)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights - 1).abs().max() < 0.02
    assert torch.equal(sphere_samples(128)[0], points * weights[:, None])


def test_c16_readouts(model):
    for head, value in ((model.energy_head, 0.25), (model.force_head, 0.5)):
        assert isinstance(head, SphereReadout)
        torch.nn.init.zeros_(head.fc3.weight)
        torch.nn.init.constant_(head.fc3.bias, value)
    out = model(structure())
    assert out["energy"].item() == pytest.approx(3 * 0.25)
    assert torch.allclose(out["forces"], 0.5 * sphere_samples(16)[0].float().mean(0).expand(3, 3), atol=1e-7)


def test_c17_units():
    config = SCNConfig(cutoff=8.0, otf_graph=True, use_pbc=False)

    def num_edges(distance):
        pair = structure(pos=torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [40.0, 0.0, 0.0]]))
        return len(find_edges(pair, config)[0])

    assert [num_edges(7.99), num_edges(8.01)] == [2, 0]  # Å
    assert torch.allclose(polar_rotation(torch.tensor(2 * math.pi)), torch.eye(3), atol=1e-6)  # radians


def test_c18_normalised_outputs():
    mean, stdev = -0.7554450631141663, 2.887317180633545  # eV, of OC20 S2EF
    normalizer = create_normalizer(mean=mean, stdev=stdev)
    output = torch.tensor([0.0, 1.0])
    assert normalizer(output).tolist() == pytest.approx([mean, mean + stdev])
    assert normalizer.norm(normalizer(output)).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_c19_state_dict_names(model):
    linear = ("weight", "bias")
    layers = ["fc1_sphere", "fc2_sphere", "fc3_sphere", "dist_block.fc1_dist", "dist_block.fc1_edge_attr"]
    layers += [
        f"message_blocks.{r}.{fc}"
        for r in (0, 1)
        for fc in ("fc1_dist", "fc1_edge_proj", "fc1_edge", "fc2_edge")
    ]
    heads = [f"{kind}_fc{i}" for kind in ("energy", "force") for i in (1, 2, 3)]
    expected = {f"{name}.{part}" for name in heads for part in linear}
    expected |= {f"edge_blocks.0.{name}.{part}" for name in layers for part in linear}
    expected |= {f"edge_blocks.0.dist_block.{end}_embedding.weight" for end in ("source", "target")}
    expansion = "distance_expansion.offset"
    expected |= {"sphere_embedding.weight", expansion}
    expected |= {f"edge_blocks.0.{expansion}", f"edge_blocks.0.dist_block.{expansion}"}
    assert set(model.state_dict()) == expected


def test_c20_determinism(model):
    data = structure()
    first, second = model(data), model(data)
    assert torch.equal(first["energy"], second["energy"])
    assert torch.equal(first["forces"], second["forces"])
    model.train()
    torch.manual_seed(3)
    first, second = model(data), model(data)
    assert not torch.equal(first["forces"], second["forces"])
    torch.manual_seed(3)
    assert torch.equal(model(data)["forces"], first["forces"])


def test_c21_precision(model):
    single, double = structure(), structure(dtype=torch.float64)
    edges = [find_edges(data, model.config) for data in (single, double)]
    assert torch.equal(edges[0][0], edges[1][0])
    assert (edges[0][2].dtype, edges[1][2].dtype) == (torch.float32, torch.float64)
    assert model.double()(double)["energy"].dtype == torch.float64


def test_c22_elements(model):
    assert len(model.sphere_embedding.weight) == model.config.max_num_elements == 90
    model(structure(atomic_numbers=torch.tensor([89, 8, 1])))
    with pytest.raises(InputError, match="atomic number 90"):
        model(structure(atomic_numbers=torch.tensor([90, 8, 1])))


def test_c23_derivatives():
    torch.manual_seed(2)
    settings = {"lmax": 2, "num_interactions": 1, "hidden_channels": 16, "sphere_channels": 8}
    settings |= {"sphere_channels_reduce": 8, "num_basis_functions": 8, "distance_resolution": 0.5}
    settings |= {"num_resolutions": 1, "max_num_neighbors": -1}  # equal distances make ranks jump
    model = SphericalChannelNetwork(
        **settings, direct_forces=False, regress_stress=True, otf_graph=True, cutoff=6.0
    )
    strengthen(model)  # forces of initial weights are so small that differences of energies are rounding
    model, data, step = model.double().eval(), structure(dtype=torch.float64), 1e-4
    energies = []
    for sign in (1, -1):
        moved, strained = data.clone(), data.clone()
        moved.pos[0, 2] += sign * step
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[1, 1] = sign * step
        strained.pos, strained.cell = data.pos + data.pos @ strain, data.cell + data.cell @ strain
        energies.append([model(changed)["energy"].item() for changed in (moved, strained)])
    out = model(data)
    force, stress = [-(plus - minus) / (2 * step) for plus, minus in zip(*energies, strict=True)]
    assert out["forces"][0, 2].item() == pytest.approx(force, rel=1e-6)
    assert out["stress"][0, 1, 1].item() == pytest.approx(-stress / 125, rel=1e-6)


def test_c24_ids(tmp_path):
    for name in ("Cu/relax.extxyz", "Pd/relax.extxyz"):
        (tmp_path / name).parent.mkdir()
        write(tmp_path / name, [molecule("H2O"), molecule("H2O")])
    frames = list(read_frames(find_files(tmp_path), tmp_path))
    names = [structure_name(frame.sid, frame.fid) for frame in frames]
    assert names == ["Cu/relax_0", "Cu/relax_1", "Pd/relax_0", "Pd/relax_1"]
    assert structure_name("Cu", None) == "Cu"
    atom = {"natoms": 1, "atomic_numbers": torch.tensor([1]), "fixed": torch.tensor([0])}
    data = [Data(sid=sid, fid=0, **atom) for sid in ("a", "b", "a")]
    write_lmdb(tmp_path / "twice", data)
    with pytest.raises(InputError, match="'a_0'"):
        check_samples("dataset.test", {"src": str(tmp_path / "twice")}, "id", predicted_name)
    with pytest.raises(InputError, match="'a_0'"):
        read_structures(tmp_path / "twice")
    forces = {"b_0": np.ones((2, 3)), "a_0": np.zeros((1, 3))}
    for order in (["a_0", "b_0"], ["b_0", "a_0"]):
        energy, blocks = np.array([ord(name[0]) for name in order], dtype=float), [forces[k] for k in order]
        arrays = {"ids": order, "energy": energy, "forces": np.concatenate(blocks)}
        np.savez(tmp_path / "found.npz", **arrays, chunk_idx=[len(blocks[0])])
        found = read_results([tmp_path / "found.npz"], "s2ef")
        assert found["ids"].tolist() == ["a_0", "b_0"]
        assert found["energy"].tolist() == [ord("a"), ord("b")]
        assert found["forces"][:, 0].tolist() == [0, 1, 1]


def test_c25_virial():
    """The virial by its definition, -dE/dstrain, against the stress of ASE's potential."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    virial, step = [], 1e-4
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        ends = []
        for sign in (1, -1):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ (torch.eye(3) + strain).numpy(), scale_atoms=True)
            strained.calc = EMT()
            ends.append(strained.get_potential_energy())
        virial.append(-(ends[0] - ends[1]) / (2 * step))
    found = read_labels({"virial": virial}, atoms, LabelKeys(), "here").targets
    assert found["stress"].tolist() == pytest.approx(atoms.get_stress().tolist(), abs=1e-6)


def test_c26_cell_vectors(model):
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]], cell=[7.0, 8.0, 0.0], pbc=True)
    to_data = AtomsToGraphs(r_edges=False, r_pbc=True).convert
    bare = structure(cell=torch.diag(torch.tensor([7.0, 8.0, 0.0]))[None])
    for batch in (Batch.from_data_list([to_data(atoms)]), bare):
        with pytest.raises(InputError, match="periodic along c without a cell vector"):
            model(batch)
    atoms.pbc = [True, True, False]
    model(Batch.from_data_list([to_data(atoms)]))


def test_c27_relaxed_structures():
    for pbc in ([False, False, False], [True, True, False], [True, True, True]):
        data = structure(pbc=torch.tensor([pbc]), fixed=torch.zeros(3), tags=torch.zeros(3))
        data.pos -= 6.0
        results = {"energy": torch.tensor([[-1.5]]), "forces": torch.ones(3, 3)}
        (atoms,) = to_atoms(data, results)
        assert atoms.pbc.tolist() == pbc
        assert np.array_equal(atoms.cell, data.cell[0])
        assert np.array_equal(atoms.positions, data.pos)
        assert (atoms.get_potential_energy(), atoms.get_forces().tolist()) == (-1.5, [[1.0] * 3] * 3)


def test_c28_fixed_atoms(tmp_path):
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [0, 0, 3], [0, 3, 0]], cell=[6, 6, 6], pbc=True)
    forces = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    atoms.set_constraint([FixScaled([0]), FixCartesian([1], (True, True, False)), FixCom()])
    write(tmp_path / "frame.traj", atoms)
    (frame,) = read_frames([tmp_path / "frame.traj"])
    assert held_atoms(frame.atoms).tolist() == [True, False, False]
    assert frame.forces.tolist() == forces.tolist()
    assert main(["convert", str(tmp_path / "frame.traj"), str(tmp_path / "out")]) == 0
    (sample,) = LmdbDataset({"src": str(tmp_path / "out/train")})
    assert sample.fixed.tolist() == [1, 0, 0]
    stdev = json.loads((tmp_path / "out/conversion.json").read_text())["normalizer"]["forces"]["stdev"]
    assert stdev == pytest.approx(np.sqrt(np.square(forces[1:]).mean()))


def test_c29_scale_of_derivatives():
    energy = Normalizer(mean=-6.07, rmsd=0.56)
    rounded = Normalizer(mean=0.0, rmsd=0.5600000023841858)
    message = r"expected mean 0\.0 and rmsd 0\.56, the energy's scale"
    for name in ("forces", "stress"):
        check_derivatives(["energy", name], {"energy": scale_of(energy), name: scale_of(rounded)})
        for wrong in (Normalizer(0.0, 2.26), Normalizer(0.1, 0.56), energy):
            with pytest.raises(InputError, match=message):
                check_derivatives(["energy", name], {"energy": scale_of(energy), name: scale_of(wrong)})


def test_c30_float_numbers(tmp_path):
    made = trainer(tmp_path, {name: {"mean": 0, "rmsd": 2} for name in AGREE})
    numbers = [value for module in made.normalizers.values() for value in module.buffers()]
    assert [value.dtype for value in numbers] == [torch.float32] * 6
    assert [type(loss["coefficient"]) for _, loss in made.loss_functions] == [float] * 3


def test_c31_whose_normalizers(tmp_path, caplog):
    path = saved(tmp_path, energy=(-0.5, 2.26), forces=(0.0, 2.26), stress=(0.0, 2.26))
    made = trainer(tmp_path, AGREE)
    made.load_checkpoint(str(path))
    assert made.normalizers["energy"].mean.item() == -0.5
    assert "mean -0.5 and rmsd 2.26, of the checkpoint; the configuration has mean -6.07" in caplog.text


def test_c32_extensive_energies(model):
    references = create_element_references(state_dict={"element_references": torch.linspace(-5, 0, 119)})
    apart = torch.tensor([0.0, 0.0, 40.0])
    one = structure(pbc=torch.zeros(1, 3, dtype=torch.bool))
    places = {"pos": torch.cat([one.pos, one.pos + apart]), "atomic_numbers": one.atomic_numbers.repeat(2)}
    two = structure(pbc=torch.zeros(1, 3, dtype=torch.bool), natoms=6, **places)

    def energy(data, mean):
        scaled = create_normalizer(mean=mean, stdev=2.0)(model(data)["energy"].view(1, 1))
        return references(scaled, data).item()

    assert energy(two, 0.0) == pytest.approx(2 * energy(one, 0.0), rel=1e-6)
    assert energy(two, -4.1) == pytest.approx(2 * energy(one, -4.1) + 4.1, rel=1e-6)


def checkpoint_of(model, **changes):
    """Return a checkpoint of fairchem 1, through the form of neither line."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return to_fairchem1(Trained(dataclasses.asdict(model.config), weights, weights, {}, **changes))


def test_c33_references(model):
    checkpoint = checkpoint_of(model, references=[0.0, -13.5, *[0.0] * 117])
    kept = create_element_references(state_dict=checkpoint["elementrefs"]["energy"])
    data, label = structure(atomic_numbers=torch.tensor([1, 1, 8])), torch.tensor([[-30.0]])
    target = kept.dereference(label, data)
    assert target.item() == -30.0 + 2 * 13.5  # what a training learns
    assert torch.equal(kept(target, data), label)  # what a prediction is


def test_c34_trained_elements(model):
    assert checkpoint_of(model, elements=[1, 29])["config"]["trained_elements"] == [1, 29]
    assert "trained_elements" not in checkpoint_of(model)["config"]
    known = KnownElements([1, 29], strict=True)
    known.check(np.array([29, 1, 29]))
    with pytest.raises(InputError, match="not on He, O"):
        known.check(np.array([8, 1, 2]))


def test_c35_files_run_nothing(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "marker")}, tmp_path / "evil.pt")
    for read, content in ((torch_files.read, tmp_path / "evil.pt"), (loads, pickle.dumps(Evil("marker")))):
        with pytest.raises(InputError, match=r"refused 'posix\.mkdir'"):
            read(content)
    assert not (tmp_path / "marker").exists()


def test_c36_checksums(tmp_path, model):
    path, checkpoint = tmp_path / "checkpoint.pt", checkpoint_of(model)
    torch.save(checkpoint, path)
    name, weight = next(iter(checkpoint["state_dict"].items()))
    assert torch.equal(torch_files.read(path)["state_dict"][name], weight)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"the checksum of .* is wrong"):
        torch_files.read(path)


def test_c37_ties():
    distance = torch.tensor([1.0] * 11 + [2.0, 2.0, 3.0, 3.0, 3.00005, 3.001])
    vec = torch.stack([distance, 0 * distance, 0 * distance], dim=1)
    index, target = torch.arange(17), torch.zeros(17, dtype=torch.long)
    sizes = [
        build_graph(
            index, target, vec, num_resolutions=2, max_num_neighbors=14, keep_tied_neighbors=keep
        ).sizes
        for keep in (False, True)
    ]
    assert sizes == [(12, 2), (13, 3)]
    at_cutoff = structure(pos=torch.tensor([[0.0, 0.0, 0.0], [8.00005, 0.0, 0.0], [40.0, 0.0, 0.0]]))
    config = SCNConfig(cutoff=8.0, otf_graph=True, use_pbc=False)
    kept = dataclasses.replace(config, keep_tied_neighbors=True)
    assert [len(find_edges(at_cutoff, c)[0]) for c in (config, kept)] == [0, 2]


def test_c38_places(model):
    near, far = structure(dtype=torch.float64), structure(dtype=torch.float64)
    far.pbc[:] = False
    near.pbc[:] = False
    far.pos += 9e8
    edges = [find_edges(data, model.config) for data in (near, far)]
    assert all(torch.equal(edges[0][k], edges[1][k]) for k in range(2))
    assert torch.allclose(edges[0][2], edges[1][2], rtol=0, atol=1e-6)
    for dtype, limit in ((torch.float32, 8.3e4), (torch.float64, 1e9)):
        moved = structure(dtype=dtype)
        moved.pos[0, 0] = limit
        find_edges(moved, model.config)
        moved.pos[0, 0] *= 1.02
        with pytest.raises(InputError, match=r"within .* Å of the origin"):
            find_edges(moved, model.config)


def test_c39_fine_tuning(tmp_path):
    path = saved(tmp_path, energy=(-0.5, 2.26), forces=(0.0, 2.26), stress=(0.0, 2.26))
    own, lacking = trainer(tmp_path, AGREE), trainer(tmp_path, None)
    for made, mean in ((own, -6.07), (lacking, -0.5)):
        finetuning.begin(made, str(path))
        assert made.normalizers["energy"].mean.item() == pytest.approx(mean)
        state = torch.load(path, weights_only=False)["state_dict"]  # without an average
        assert all(torch.equal(value, state[name]) for name, value in made.model.state_dict().items())


def test_c40_labels_beside_predictions(tmp_path):
    torch.save(to_fairchem1(trained()), tmp_path / "a.pt")
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=np.ones((3, 3)))
    write(tmp_path / "in.extxyz", atoms)
    calculator = SCNCalculator(tmp_path / "a.pt")
    predict_file(calculator, tmp_path / "in.extxyz", tmp_path / "out.xyz")
    found = ase.io.read(tmp_path / "out.xyz", format="extxyz")
    (predicted,) = calculator.predict([atoms])
    assert (found.info["label_energy"], found.calc.results["energy"]) == (-14, predicted["energy"])
    assert (found.arrays["label_forces"] == 1).all()
    assert np.allclose(found.calc.results["forces"], predicted["forces"], atol=1e-7)
