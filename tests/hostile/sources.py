"""Files as they should be, of every kind that a command reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from ocp_scn.config import SCNConfig
from ocp_scn.data.formats import writer
from ocp_scn.model import SCN
from ocp_scn.submission.archive import SPLITS
from ocp_scn.trained import Trained, to_fairchem1
from tests.weights import strengthen

FAIRCHEM2 = version("fairchem-core").startswith("2.")
_EXAMPLE = Path(__file__).parents[2] / "configs/s2ef/example/scn.yml"
SETTINGS = {
    "lmax": 2,
    "num_interactions": 2,
    "sphere_channels": 4,
    "sphere_channels_reduce": 4,
    "hidden_channels": 8,
    "num_basis_functions": 6,
    "num_sphere_samples": 16,
    "distance_resolution": 0.2,
    "cutoff": 5.0,
    "otf_graph": True,
}
NORMALIZERS = {"energy": (-3.0, 2.0), "forces": (0.0, 0.5)}


def frames() -> list[Atoms]:
    """Return eight labelled structures of four systems."""
    random = np.random.default_rng(0)
    return [_frame(k, random) for k in range(8)]


def _frame(number: int, random: np.random.Generator) -> Atoms:
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0.1, 0.4, 0.6]])
    cell = [[4.2, 0, 0], [0.3, 4.5, 0], [0, 0.2, 4.4]]
    atoms = Atoms("Cu3O", scaled_positions=places, cell=cell, pbc=True)
    atoms.positions += random.normal(scale=0.1, size=(4, 3))
    atoms.set_tags([0, 1, 1, 2])
    atoms.set_constraint(FixAtoms([0]))
    forces = random.normal(scale=0.5, size=(4, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0 + random.normal(), forces=forces)
    atoms.info.update(sid=f"s{number // 2}", fid=number % 2)
    return atoms


def properties(atoms: Atoms) -> dict[str, Any]:
    """Return what a data set keeps of a frame beside its structure."""
    labels = {name: atoms.calc.results[name] for name in ("energy", "forces")}
    return {**labels, "sid": atoms.info["sid"], "fid": atoms.info["fid"]}


# --- calculations and data sets: each writer takes a path and frames ---------------------------------


def write_xyz(path: Path, found: Sequence[Atoms]) -> None:
    """Write extxyz, packed as the name says."""
    ase.io.write(path, found, format="extxyz")


def write_trajectory(path: Path, found: Sequence[Atoms]) -> None:
    """Write a trajectory, in which infos are kept."""
    ase.io.write(path, found, format="traj")


def write_database(path: Path, found: Sequence[Atoms]) -> None:
    """Write an ASE database, SQLite or JSON by its name."""
    with ase.db.connect(path, append=False) as database:
        for atoms in found:
            database.write(atoms, sid=atoms.info["sid"], fid=atoms.info["fid"])


def write_structures(path: Path) -> None:
    """Write the structures of the frames in a format of ASE by its name, and a checkpoint beside it."""
    ase.io.write(path, frames()[:1] if path.name == "POSCAR" else frames())
    write_checkpoint(path.parent, name="checkpoint.pt")


def write_pair(folder: Path) -> None:
    """Write OC20's extxyz.xz, whose frames have no ids, and the txt beside it."""
    found, lines = frames(), []
    for atoms in found:
        lines.append(f"{atoms.info.pop('sid')},frame{atoms.info.pop('fid')},-1.25\n")
    ase.io.write(folder / "frames.extxyz.xz", found, format="extxyz")
    (folder / "frames.txt").write_text("".join(lines))


def write_data_set(path: Path, found: Sequence[Atoms]) -> None:
    """Write a data set of the installed line of fairchem into the folder of ``path``, and nothing else."""
    path.unlink(missing_ok=True)
    with writer("aselmdb" if FAIRCHEM2 else "lmdb")(path.parent) as target:
        for atoms in found:
            target.write(atoms, **properties(atoms))


# --- runs ------------------------------------------------------------------------------------------


def trained() -> Trained:
    """Return a small network that knows nothing."""
    torch.manual_seed(1)
    model = strengthen(SCN(SCNConfig.from_settings(SETTINGS)))
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return Trained(dict(SETTINGS), weights, weights, NORMALIZERS)


def write_checkpoint(folder: Path, data: Path | None = None, name: str = "a.pt") -> None:
    """Write a checkpoint of fairchem 1, trained on the data set of a folder if there is one."""
    checkpoint = to_fairchem1(trained())
    if data is not None:
        checkpoint["config"]["dataset"] = {"src": str(data)}
        checkpoint["config"]["val_dataset"] = {"src": str(data)}
    torch.save(checkpoint, folder / name)


def write_inference_checkpoint(folder: Path) -> None:
    """Write a checkpoint of fairchem 2."""
    from ocp_scn.fairchem.v2.checkpoint import build

    torch.save(build(trained(), "oc20"), folder / "a.pt")


def write_training(folder: Path) -> None:
    """Write a data set, a configuration that trains an epoch on it, and a checkpoint."""
    write_data_set(folder / "data/data.lmdb", frames())
    config = yaml.safe_load(_EXAMPLE.read_text())
    for values in config["dataset"].values():
        values["src"] = str(folder / "data")
    config["model"] = {"name": "ocp_scn", **SETTINGS}
    config["optim"] |= {"max_epochs": 1, "batch_size": 4, "eval_batch_size": 8}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    write_checkpoint(folder, name="checkpoint.pt")


def write_run(folder: Path) -> None:
    """Write a data set, and a run with a checkpoint and predictions of it."""
    write_data_set(folder / "data/data.lmdb", frames())
    for name in ("checkpoints", "results"):
        (folder / "run" / name / "one").mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "run/checkpoints/one", Path("data"), "checkpoint.pt")
    write_arrays(folder / "run/results/one/s2ef_predictions.npz", predictions())


def write_splits(folder: Path) -> None:
    """Write predictions of the four splits."""
    for k, split in enumerate(SPLITS):
        write_arrays(folder / f"{split}.npz", predictions(k + 1))


def write_submission(folder: Path) -> None:
    """Write a file for the leaderboard, in EvalAI's format."""
    parts = {split: predictions(k + 1) for k, split in enumerate(SPLITS)}
    arrays = {f"{split}_{name}": values for split, part in parts.items() for name, values in part.items()}
    write_arrays(folder / "a.npz", arrays)


def predictions(split: int = 0) -> dict[str, np.ndarray]:
    """Return predictions as fairchem writes them, for the frames, or for others of the same sizes."""
    random = np.random.default_rng(split)
    names = [f"{atoms.info['sid']}_{atoms.info['fid']}" for atoms in frames()]
    return {
        "energy": random.normal(-3, 1, (8, 1)).astype(np.float32),
        "forces": random.normal(size=(24, 3)).astype(np.float32),
        "chunk_idx": np.arange(3, 24, 3),
        "ids": np.array([f"{split}{name}" if split else name for name in names]),
    }


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz file as fairchem does."""
    np.savez_compressed(path, **arrays)


# --- what was read ---------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a checksum of nested containers of numbers and texts; the order of keys does not matter."""
    found = hashlib.sha256()
    _feed(value, found.update)
    return found.hexdigest()[:16]


def _feed(value: Any, feed: Callable[[bytes], None]) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            feed(str(key).encode())
            _feed(value[key], feed)
    elif isinstance(value, list | tuple):
        for part in value:
            _feed(part, feed)
    elif isinstance(value, np.ndarray | torch.Tensor | int | float | bool | np.generic):
        array = np.asarray(value)
        feed(str(array.shape).encode())
        feed(array.astype(np.float64).tobytes() if array.dtype.kind in "biuf" else repr(array).encode())
    else:
        feed(repr(value).encode())
