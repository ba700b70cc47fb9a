"""The spherical channels that pictures show are those of the network, and turn as they should."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from e3nn import o3
from torch import Tensor

from ocp_scn import SCN, SCNConfig
from ocp_scn.calculator import batch_of
from ocp_scn.fairchem.neighbors import batch_graph
from ocp_scn.sphere import edge_frames, polar_rotation, spiral_points
from ocp_scn.viz.signals import edge_functions, layer_signals, most_directed, tap_angles, values_at
from tests.settings import SETTINGS
from tests.weights import strengthen

POINTS = spiral_points(60)


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=7.0, periodic=True)
    add_adsorbate(atoms, "O", 1.4, "fcc")
    atoms.rattle(0.05, seed=1)
    return atoms


def network(**settings: object) -> SCN:
    torch.manual_seed(0)
    config = SCNConfig.from_settings({**SETTINGS, "otf_graph": True, **settings})
    return strengthen(SCN(config)).double().eval()


def evaluated(model: SCN, atoms: Atoms) -> tuple[list[Tensor], Tensor]:
    """Return the signals, and the energy that the model itself makes."""
    data = batch_of([atoms], torch.device("cpu"), torch.float64)
    graph = batch_graph(data, model.config)
    frames = edge_frames(graph.vec, torch.zeros(len(graph.vec), dtype=torch.float64))
    with torch.no_grad():
        energy, _ = model(data.atomic_numbers, graph, frames, data.batch, 1)
    return layer_signals(model, data.atomic_numbers, graph, frames), energy


@pytest.mark.parametrize("layers", [1, 3])
def test_the_signals_are_those_between_the_layers(layers: int) -> None:
    """The first is the embedding; the readout of the last gives the energy; nothing stays on the network."""
    model, atoms = network(num_interactions=layers), slab()
    signals, energy = evaluated(model, atoms)
    assert [x.shape for x in signals] == [(9, 16, 8)] * (layers + 1)
    embedding = model.sphere_embedding(torch.tensor(atoms.numbers))
    torch.testing.assert_close(signals[0][:, 0], embedding, rtol=0, atol=0)
    assert not signals[0][:, 1:].any()
    with torch.no_grad():
        read = (model.energy_head(model.harmonics @ signals[-1]) @ model.energy_weights).sum()
    torch.testing.assert_close(read, energy[0])
    assert all((x - y).abs().max() > 1e-3 for x, y in pairwise(signals))
    assert not any(block._forward_hooks for block in model.edge_blocks)


def test_functions_turn_with_the_structure() -> None:
    """What is drawn of a rotated structure is the rotated drawing, where the network has that symmetry."""
    model, atoms = network(mmax=0, use_grid=False, max_num_neighbors=-1), slab()
    turn = o3.rand_matrix(dtype=torch.float64)
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.numpy().T
    turned.set_cell(atoms.cell.array @ turn.numpy().T)
    pairs = zip(evaluated(model, atoms)[0], evaluated(model, turned)[0], strict=True)
    for x, y in pairs:
        torch.testing.assert_close(values_at(POINTS @ turn.T, y.mT), values_at(POINTS, x.mT))
    assert (x - y).abs().max() > 1e-2


def test_values_are_those_of_the_expansion() -> None:
    coefficients = torch.randn(3, 25, dtype=torch.float64)
    harmonics = o3.spherical_harmonics(list(range(5)), POINTS, normalize=True, normalization="integral")
    torch.testing.assert_close(values_at(POINTS, coefficients), coefficients @ harmonics.T)


def test_the_channel_that_depends_most_on_the_direction() -> None:
    signals = torch.zeros(2, 4, 9, 5, dtype=torch.float64)
    signals[:, :, 0] = torch.tensor([1.0, 1.0, 100.0, 1.0, 0.0])
    signals[:, :, 5] = torch.tensor([0.1, 0.5, 10.0, 0.0, 0.0])
    assert most_directed(list(signals)) == 1


def test_an_edge_in_its_frame() -> None:
    """Functions turn into the frame; those kept have few waves about the edge; taps roll them about it."""
    coefficients, vec = torch.randn(2, 25, dtype=torch.float64), torch.tensor([[0.3, -1.2, 0.5]])
    frame = edge_frames(vec.double(), torch.zeros(1, dtype=torch.float64))[0]
    found = edge_functions(coefficients, frame, degree=3, mmax=1, num_taps=4)
    assert found.in_structure is coefficients
    torch.testing.assert_close(values_at(POINTS @ frame.T, found.turned), values_at(POINTS, coefficients))
    torch.testing.assert_close(
        values_at(torch.tensor([[0.0, 1.0, 0.0]]).double(), found.turned),
        values_at(vec.double() / vec.norm(), coefficients),
    )

    angles = torch.arange(12, dtype=torch.float64) * 2 * np.pi / 12
    circle = torch.stack([0.8 * angles.sin(), torch.full_like(angles, 0.6), 0.8 * angles.cos()], dim=1)
    waves = torch.fft.rfft(values_at(circle, found.kept)).abs()
    assert waves[:, 2:].max() < 1e-9 < waves[:, :2].min()
    assert not found.kept[:, 16:].any()
    torch.testing.assert_close(found.kept[:, :4], found.turned[:, :4])

    assert found.taps.shape == (4, 2, 25)
    torch.testing.assert_close(found.taps[0], found.kept)
    for angle, tap in zip(tap_angles(4), found.taps, strict=True):
        rolled = POINTS @ polar_rotation(angle).T
        torch.testing.assert_close(values_at(rolled, tap), values_at(POINTS, found.kept))
    assert tap_angles(4).tolist() == [0, np.pi / 2, np.pi, 3 * np.pi / 2]
