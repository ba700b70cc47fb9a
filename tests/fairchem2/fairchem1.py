"""What the environment of fairchem-core 1.10 does for a test: save or load a checkpoint, and predict with it.

python fairchem1.py FOLDER save|load CHECKPOINT; FOLDER has settings.json and systems.traj.
"""

import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.datasets import data_list_collater

import ocp_scn
from ocp_scn.data.lmdb import to_graph
from ocp_scn.trained import _config_of_fairchem1
from tests.weights import strengthen


def save(path: Path, settings: dict) -> None:
    """Write what fairchem's trainer writes: weights below a module, their average, normalizers."""
    torch.manual_seed(1)
    model = strengthen(ocp_scn.SphericalChannelNetwork(**settings, otf_graph=True))
    raw = {f"module.{name}": value + 0.1 for name, value in model.state_dict().items()}
    shadows = [parameter.detach().clone() for parameter in model.parameters()]
    scale = {"rmsd": torch.tensor(2.26)}
    torch.save(
        {
            "state_dict": raw,
            "ema": {"decay": 0.99, "num_updates": None, "shadow_params": shadows, "collected_params": []},
            "normalizers": {
                "energy": {"mean": torch.tensor(-6.07), **scale},
                "forces": {"mean": torch.tensor(0.0), **scale},
            },
            "config": _config_of_fairchem1(settings, ["energy", "forces"]),
        },
        path,
    )
    # The calculator takes the raw weights; predictions are those of the average.
    torch.save(
        {**torch.load(path), "state_dict": dict(model.state_dict()), "ema": None}, path.with_suffix(".best")
    )


def main(folder: Path, mode: str, name: str) -> None:
    """Save a checkpoint if asked to, predict with it, write the predictions."""
    path = folder / name
    if mode == "save":
        save(path, json.loads((folder / "settings.json").read_text()))
        path = path.with_suffix(".best")
    calculator = OCPCalculator(checkpoint_path=path, cpu=True, seed=0)
    systems = ase.io.read(folder / "systems.traj", ":")
    batch = data_list_collater([to_graph(atoms, sid=i) for i, atoms in enumerate(systems)], otf_graph=True)
    out = calculator.trainer.predict(batch, per_image=False, disable_tqdm=True)
    np.savez(
        folder / "predictions.npz",
        energy=out["energy"].numpy().ravel(),
        forces=out["forces"].numpy(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
