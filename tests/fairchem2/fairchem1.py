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
from fairchem.core.models.scn import scn

import ocp_scn
from ocp_scn.fairchem.v1.lmdb import to_graph
from ocp_scn.trained import _config_of_fairchem1
from tests.weights import strengthen


def save(path: Path, settings: dict, *, published: bool) -> None:
    """Write what fairchem's trainer writes: weights below a module, their average, normalizers.

    A published one has the weights of fairchem's own model, below two modules, and the names of 2022.
    """
    torch.manual_seed(1)
    model = strengthen(ocp_scn.SphericalChannelNetwork(**settings, otf_graph=True))
    weights, means = dict(model.state_dict()), {"energy": torch.tensor(-6.07), "forces": torch.tensor(0.0)}
    # The calculator takes the weights of a checkpoint, whose average is what predicts here.
    best = {
        "state_dict": weights,
        "ema": None,
        "normalizers": {name: {"mean": mean, "rmsd": torch.tensor(2.26)} for name, mean in means.items()},
        "config": _config_of_fairchem1(settings, list(means)),
    }
    torch.save(best, path.with_suffix(".best"))
    changes, prefix, source = {}, "module.", model
    if published:
        source, prefix = scn.SphericalChannelNetwork(**settings), "module.module."
        source.load_state_dict(weights)
        names = {"energy": "target", "forces": "grad_target"}
        changes["normalizers"] = {
            names[name]: {"mean": mean, "std": torch.tensor(2.26)} for name, mean in means.items()
        }
        changes["config"] = {"model": "scn", "model_attributes": settings}
    shadows = [parameter.detach().clone() for parameter in source.parameters()]
    changes["ema"] = {"decay": 0.99, "num_updates": None, "shadow_params": shadows, "collected_params": []}
    changes["state_dict"] = {prefix + name: value + 0.1 for name, value in source.state_dict().items()}
    torch.save(best | changes, path)


def main(folder: Path, mode: str, name: str) -> None:
    """Save a checkpoint if asked to, predict with it, write the predictions."""
    path = folder / name
    if mode == "save":
        settings = json.loads((folder / "settings.json").read_text())
        save(path, settings, published=settings.get("direct_forces", True))
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
