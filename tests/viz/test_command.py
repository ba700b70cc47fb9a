"""The command draws checkpoints, structures, and an example that needs neither."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from matplotlib.image import imread

from ocp_scn.trained import to_fairchem1
from ocp_scn.viz.__main__ import main
from ocp_scn.viz.evaluation import evaluate, find_edge
from ocp_scn.viz.structures import example, random_network
from tests import HANG
from tests.test_calculator import slab, trained

ROOT = Path(__file__).parents[2]
PICTURE = "spherical_channels.png"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and structures in files of three kinds."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(to_fairchem1(trained()), folder / "checkpoint.pt")
    ase.io.write(folder / "slabs.extxyz", [slab(), slab()[:9]])
    ase.io.write(folder / "POSCAR", slab(), format="vasp")
    ase.io.write(folder / "alone.traj", Atoms("O", cell=[30, 30, 30], pbc=True))
    (folder / "empty.cif").write_text("data_x\n_cell_length_a 3.0\n")
    (folder / "broken.vasp").write_text((folder / "POSCAR").read_text()[:200])
    ase.io.write(folder / "broken.rmc6f", slab())
    text = (folder / "broken.rmc6f").read_text()
    (folder / "broken.rmc6f").write_text(re.sub("^Cell .*\n", "", text, flags=re.MULTILINE))
    (folder / "notes").write_text("no structure\n")
    (folder / "nothing.xyz").write_text("")
    (folder / "file").write_text("")
    return folder


def colors(path: Path) -> np.ndarray:
    """Return how much redder than blue a picture's pixels are, -1 to 1."""
    pixels = imread(path)
    return pixels[..., 0] - pixels[..., 2]


def test_the_picture_of_the_readme(tmp_path: Path) -> None:
    """The README's command makes its picture, from nothing, beside what it says."""
    readme = (ROOT / "README.md").read_text()
    assert f"docs/images/{PICTURE}" in readme
    (command,) = re.findall(r"`(python -m ocp_scn\.viz[^`]*)`", readme)
    done = subprocess.run(
        [sys.executable, *command.split()[1:-1], str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {tmp_path / PICTURE}: channel 0 of 16\n"
    made, shown = tmp_path / PICTURE, ROOT / "docs/images" / PICTURE
    assert imread(made).shape == imread(shown).shape
    assert [path.name for path in tmp_path.iterdir()] == [PICTURE]
    for path in (made, shown):
        assert path.stat().st_size < 400_000
        assert min((sign * colors(path) > 0.3).mean() for sign in (1, -1)) > 0.005


def test_the_example_is_the_same_every_time() -> None:
    torch.manual_seed(1)
    state, one = torch.get_rng_state(), random_network()
    assert torch.equal(torch.get_rng_state(), state)
    for weight, again in zip(one.parameters(), random_network().parameters(), strict=True):
        assert torch.equal(weight, again)
        assert weight.dtype == torch.float64
    atoms, drawn, (source, target) = example()
    assert [atoms.symbols[k] for k in (source, target)] == ["C", "Cu"]
    assert {source, target} <= set(drawn)
    assert atoms.get_distance(source, target) < 2.2


@pytest.mark.parametrize(
    "words",
    [
        ["checkpoint.pt"],
        ["checkpoint.pt", "POSCAR", "--layers", "2", "0"],
        ["checkpoint.pt", "slabs.extxyz", "--index", "1", "--channel", "3", "--atoms", "8", "2", "8"],
        ["checkpoint.pt", "slabs.extxyz", "--edge", "12", "9"],
        ["checkpoint.pt", "alone.traj"],
    ],
    ids=" ".join,
)
def test_checkpoints_and_structures(
    files: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(files / word) if (files / word).exists() else word for word in words]
    assert main([*paths, "-o", str(tmp_path / "new/folder")]) == 0
    out, err = capsys.readouterr()
    channel = "3" if "--channel" in words else "[0-7]"
    assert re.fullmatch(rf"wrote .*{PICTURE}: channel {channel} of 8\n", out)
    assert err == ""
    drawn = colors(tmp_path / "new/folder" / PICTURE)
    assert (np.abs(drawn) > 0.3).any()
    # One row only where there is no edge.
    assert (drawn.shape[0] < 600) == ("alone.traj" in words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.pt"], "missing.pt"),
        (["slabs.extxyz"], "slabs.extxyz"),
        (["checkpoint.pt", "missing.cif"], "missing.cif' does not exist"),
        (["checkpoint.pt", "broken.vasp"], "broken.vasp' cannot be read: "),
        (["checkpoint.pt", "broken.rmc6f"], "broken.rmc6f' cannot be read: "),
        (["checkpoint.pt", "notes"], "notes' cannot be read: "),
        (["checkpoint.pt", "empty.cif"], "block 'x' has _cell_length_a and no atoms"),
        (["checkpoint.pt", "nothing.xyz"], "nothing.xyz' is empty"),
        (["checkpoint.pt", "."], "cannot be read: "),
        (
            ["checkpoint.pt", "slabs.extxyz", "--index", "2"],
            "slabs.extxyz' has no structure with the index 2",
        ),
        (["checkpoint.pt", "--index", "1"], "--index 1 is of a file"),
        (["checkpoint.pt", "slabs.extxyz", "--channel", "8"], "--channel 8; expected 0..7"),
        (["checkpoint.pt", "slabs.extxyz", "--layers", "0", "3"], "--layers 3; expected 0..2"),
        (["checkpoint.pt", "slabs.extxyz", "--atoms", "13"], "--atoms 13; expected 0..12"),
        (["checkpoint.pt", "slabs.extxyz", "--edge", "0", "13"], "--edge 0 13: the structure's graph has no"),
        (["checkpoint.pt", "slabs.extxyz", "-o", "file"], "file cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line(
    files: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_options_have_to_be_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--channel", "-1"])
    assert stop.value.code == 2
    assert "got '-1'; expected an integer of at least 0" in capsys.readouterr().err


def test_the_edge_that_is_drawn() -> None:
    """It is the shortest one between drawn atoms, between different elements if there is one."""
    atoms = molecule("CH3OH", vacuum=3.0)
    found = evaluate(random_network(), atoms)

    def ends(*args: object) -> tuple[set[int], float]:
        number = find_edge(found, *args)
        graph = found.graph
        return {int(graph.source[number]), int(graph.target[number])}, float(graph.vec[number].norm())

    hydrogens, (oxygen,) = np.flatnonzero(atoms.numbers == 1), np.flatnonzero(atoms.numbers == 8)
    pair, length = ends(None, range(len(atoms)))
    assert oxygen in pair
    assert length == pytest.approx(0.97, abs=0.02)
    assert ends(None, hydrogens)[0] <= set(hydrogens)
    assert find_edge(found, None, [int(oxygen)]) is None
    number = find_edge(found, (0, 2), [])
    assert (found.graph.source[number], found.graph.target[number]) == (0, 2)
    np.testing.assert_allclose(found.graph.vec[number], atoms.positions[0] - atoms.positions[2])
