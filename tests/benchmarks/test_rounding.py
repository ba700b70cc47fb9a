"""What float16 costs, on structures whose numbers are known."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from benchmarks.rounding import main
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v1.lmdb import to_graph
from tests.samples import write_lmdb

ENERGIES = (1.0, -300.0625)  # float16 has the first and -300.0 for the second


@pytest.fixture
def files(tmp_path):
    """A data set of two structures and predictions that are right."""
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=np.eye(3) * 9, pbc=True, constraint=FixAtoms([1]))
    forces = np.array([[0.5, 0.0, 0.0], [7.0, 7.0, 7.0]])
    samples = [to_graph(atoms, sid=k, fid=0, energy=e, forces=forces) for k, e in enumerate(ENERGIES)]
    write_lmdb(tmp_path / "data", samples)

    def write(dtype=np.float32, ids=("0_0", "1_0")):
        np.savez(
            tmp_path / "predictions.npz",
            ids=np.array(ids),
            energy=np.array(ENERGIES, dtype=dtype)[:, None],
            forces=np.array([[0.5, 0, 0]] * 2, dtype=dtype),
            chunk_idx=np.array([1]),
        )
        return [str(tmp_path / "predictions.npz"), "--data", str(tmp_path / "data")]

    return write


def test_rounding_of_known_numbers(files, capsys):
    main(files())
    printed = capsys.readouterr().out
    assert "| energy [eV] | 0.0312 | 0.0625 | 0.000000 | 0.031250 |" in printed
    assert "| forces [eV/Å] | 0 | 0 | 0.000000 | 0.000000 |" in printed
    assert "2 structures; 2 energies within 0.02 eV, in float16 1" in printed


def test_what_cannot_be_compared_is_named(files):
    with pytest.raises(InputError, match="no forces in float32"):
        main(files(dtype=np.float16))
    with pytest.raises(InputError, match="'7_0' is in none of the data sets"):
        main(files(ids=("0_0", "7_0")))
