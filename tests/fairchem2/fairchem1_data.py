"""What the environment of fairchem-core 1.10 does for a test: make its data sets, and say what is in them.

python fairchem1_data.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from fairchem.core.datasets import LmdbDataset

from ocp_scn.data.sample import make_sample


def plain(sample) -> dict:
    """Return all that a sample has but its size and the reader's ``id``; its name as text."""
    names = set(sample.keys()) - {"natoms", "id"}
    found = {name: np.asarray(sample[name]).tolist() for name in names}
    return {
        **found,
        "cell": found["cell"][0],
        "sid": str(found["sid"]),
        "pbc": np.ravel(found["pbc"]).tolist(),
    }


def main(folder: Path) -> None:
    """Write s2ef, is2re and what fairchem reads of them."""
    make_sample(folder / "made", systems=10, progress=False)
    for task in ("s2ef", "is2re"):
        (folder / "made" / task).rename(folder / task)
        samples = LmdbDataset({"src": str(folder / task / "train")})
        (folder / f"{task}.json").write_text(json.dumps([plain(sample) for sample in samples]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
