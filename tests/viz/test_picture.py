"""The picture says its scales, and shows what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from ocp_scn import SCN, SCNConfig
from ocp_scn.viz.evaluation import edge_of, evaluate, find_edge
from ocp_scn.viz.page import WIDTH
from ocp_scn.viz.picture import draw
from ocp_scn.viz.signals import values_at
from ocp_scn.viz.solids import sphere_mesh
from ocp_scn.viz.structures import random_network
from tests.settings import SETTINGS


@pytest.mark.parametrize("layers", [[0, 1, 3], [2]])
def test_panels_have_one_view_and_say_their_scales(layers: list[int]) -> None:
    atoms, channel = molecule("H2O"), 2
    found = evaluate(random_network(), atoms)
    signals = {k: found.signals[k][:, :, channel] for k in layers}
    drawn = [0, 1]
    number = find_edge(found, None, drawn)
    assert number is not None
    page = draw(atoms, drawn, signals, edge_of(found, channel, number))
    texts = [text.get_text() for text in page.figure.texts]
    assert [re.findall(r"\^\{\((\d)\)\}", text)[0] for text in texts if "^{(" in text] == [*map(str, layers)]
    said = [float(text.split("= ")[1]) for text in texts if text.startswith("largest")]
    points = torch.from_numpy(sphere_mesh(2500)[0])
    expected = [float(values_at(points, x[drawn]).abs().max()) for x in signals.values()]
    assert said == pytest.approx(expected, rel=0.05)
    panels = page.figure.axes[: len(layers)]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1
    assert "What layer 2's message from " in " ".join(texts)
    assert {"$|m| \\leq 1$", "4 taps"} <= set(texts)
    for axes in [*panels, *page.figure.axes[len(layers) + 1 :]]:  # an Å is as long across as up
        box = axes.get_position()
        across = np.ptp(axes.get_xlim()) / (box.width * WIDTH)
        assert across == pytest.approx(np.ptp(axes.get_ylim()) / (box.height * page.height))
    assert len(draw(atoms, drawn, signals, None).figure.axes) == len(layers) + 1


@pytest.mark.parametrize("layers", [1, 3])
def test_the_message_of_an_edge(layers: int) -> None:
    """An edge has the degree of its resolution, and the functions that its layer's messages read."""
    settings = {**SETTINGS, "lmax": 6, "num_interactions": layers, "otf_graph": True, "max_num_neighbors": -1}
    torch.manual_seed(0)
    network = SCN(SCNConfig.from_settings(settings)).double().eval()
    found = evaluate(network, bulk("Cu", cubic=True))
    near, far = found.graph.sizes
    assert far > 0
    read = found.signals[min(layers, 2) - 1]
    for number, degree in ((near - 1, 6), (near, 4)):
        edge = edge_of(found, 5, number)
        assert (edge.layer, edge.degree, edge.mmax) == (min(layers, 2), degree, 1)
        ends = [int(found.graph.source[number]), int(found.graph.target[number])]
        assert [edge.source, edge.target] == ends
        torch.testing.assert_close(edge.functions.in_structure, read[ends][:, :, 5])
        assert not edge.functions.kept[:, (degree + 1) ** 2 :].any()
        np.testing.assert_array_equal(edge.vec, found.graph.vec[number])
        np.testing.assert_allclose(edge.frame @ edge.vec, [0, np.linalg.norm(edge.vec), 0], atol=1e-12)
