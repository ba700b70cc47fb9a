"""fairchem-core 2's predictor and calculator on checkpoints of this model."""

import dataclasses

import hydra
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS
from fairchem.core import FAIRChemCalculator
from fairchem.core.units.mlip_unit import InferenceSettings, load_predict_unit
from fairchem.core.units.mlip_unit.api.inference import NAME_TO_INFERENCE_SETTING

from ocp_scn.data.aselmdb import AseLmdbWriter
from ocp_scn.errors import InputError
from ocp_scn.fairchem.v2 import AseDatabase, PredictRunner, float_normalizer, load_tasks
from ocp_scn.fairchem.v2.checkpoint import build
from ocp_scn.submission.structures import read_structures
from ocp_scn.trained import Trained
from tests.fairchem2.structures import SETTINGS, SMOOTH, batch_of, conservative, crystal, direct, slab, water

NORMALIZERS = {"energy": (-3.0, 2.0), "forces": (0.0, 2.0)}


def trained(model, settings, **changes):
    weights = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    return Trained({**settings, "otf_graph": True}, weights, weights, NORMALIZERS, **changes)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    smooth = {**SETTINGS, **SMOOTH, "direct_forces": False}
    torch.save(build(trained(direct(), SETTINGS), "oc20"), folder / "direct.pt")
    torch.save(build(trained(conservative(), smooth), "oc20"), folder / "conservative.pt")
    return folder


@pytest.fixture(params=["direct", "conservative"])
def checkpoint(request, checkpoints):
    return checkpoints / f"{request.param}.pt"


def predictor(path, settings="default", **changes):
    return load_predict_unit(path, inference_settings=settings, device="cpu", **changes)


def calculated(path, atoms, settings="default"):
    copy = atoms.copy()
    copy.calc = FAIRChemCalculator(predictor(path, settings), task_name="oc20")
    return copy.get_potential_energy(), copy.get_forces(apply_constraint=False)


@pytest.mark.parametrize("settings", sorted(set(NAME_TO_INFERENCE_SETTING) - {"default"}))
def test_every_inference_setting_gives_the_same_numbers(checkpoint, settings):
    """Compiling and the rest is switched off, and the graph stays that of the training."""
    energy, forces = calculated(checkpoint, slab())
    energy_2, forces_2 = calculated(checkpoint, slab(), settings)
    assert energy == energy_2
    assert np.array_equal(forces, forces_2)


def test_precision_of_a_checkpoint_can_be_changed(checkpoint):
    """By an override: TF32 is float32 on a CPU, bfloat16 differs by its rounding."""
    energy, forces = {}, {}
    for name in ("float32", "tf32", "bfloat16"):
        found = predictor(checkpoint, overrides={"backbone": {"compute_dtype": name}}).predict(
            batch_of(slab())
        )
        energy[name], forces[name] = found["energy"], found["forces"]
    assert torch.equal(energy["tf32"], energy["float32"])
    assert torch.equal(forces["tf32"], forces["float32"])
    error = (forces["bfloat16"] - forces["float32"]).norm()
    assert 0 < error < 0.1 * forces["float32"].norm()


def test_explicit_compilation_and_outside_graphs_are_switched_off(checkpoint):
    unit = predictor(checkpoint, InferenceSettings(compile=True, external_graph_gen=True))
    assert not unit.inference_settings.compile
    assert not unit.inference_settings.external_graph_gen
    atoms = slab()
    atoms.calc = FAIRChemCalculator(unit, task_name="oc20")
    assert atoms.get_potential_energy() == calculated(checkpoint, slab())[0]


def test_compiling_a_model_oneself_changes_nothing(checkpoint):
    """The network is left out of what torch compiles."""
    model = predictor(checkpoint).model
    data = batch_of(slab(), crystal())
    expected, found = model(data), torch.compile(model)(data)
    for task, values in expected.items():
        for name, value in values.items():
            assert torch.equal(value, found[task][name])


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_batched_predictions_are_those_of_the_calculator(checkpoint, precision):
    """Only rounding differs: sums over other numbers of rows are taken in another order."""
    settings = dataclasses.replace(NAME_TO_INFERENCE_SETTING["batch"], base_precision_dtype=precision)
    systems = [slab(0), slab(1, "Pd"), crystal(), water(), Atoms("Cu")]
    out = predictor(checkpoint, settings).predict(batch_of(*systems, dtype=precision))
    parts = out["forces"].split([len(system) for system in systems])
    unit = torch.finfo(precision).eps  # the spacing of numbers, relative to them
    for system, energy, forces in zip(systems, out["energy"], parts, strict=True):
        expected, expected_forces = calculated(checkpoint, system, settings)
        assert float(energy) == pytest.approx(expected, rel=4 * unit)
        assert np.abs(forces.numpy() - expected_forces).max() <= 24 * unit * np.abs(expected_forces).max()


def test_predictions_are_denormalised(checkpoint):
    """Energies are e * rmsd + mean, forces f * rmsd."""
    model = direct() if checkpoint.stem == "direct" else conservative()
    out = model(batch_of(slab()))
    energy, forces = calculated(checkpoint, slab())
    assert energy == pytest.approx(float(out["oc20_energy"]["energy"].detach()) * 2 - 3, abs=1e-5)
    expected = out["oc20_forces"]["forces"].detach().numpy() * 2
    assert np.abs(forces - expected).max() < 3e-6 * np.abs(expected).max()


def test_single_atoms(checkpoint):
    """A free atom and one in a periodic cell go through the model, without references for atoms."""
    for atoms in (Atoms("O"), Atoms("O", cell=[15, 15, 15], pbc=True)):
        energy, forces = calculated(checkpoint, atoms)
        assert np.isfinite(energy)
        assert forces.shape == (1, 3)


@pytest.mark.parametrize(
    ("pbc", "axes"), [((1, 1, 1), "c"), ((0, 0, 1), "c"), ((1, 1, 0), "a and b"), ((1, 1, 1), "a and b")]
)
def test_a_periodic_direction_without_a_cell_vector_is_refused(checkpoint, pbc, axes):
    """By the calculator, and in a batch, where fairchem has put a vector of 1 Å."""
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]], cell=[4.0, 4.5, 5.0], pbc=pbc)
    for axis in axes.split(" and "):
        atoms.cell["abc".index(axis)] = 0
    message = f"periodic along {axes} without a cell vector"
    with pytest.raises(InputError, match=f"^{message}$"):
        calculated(checkpoint, atoms)
    atoms.cell = atoms.cell.complete()
    with pytest.raises(InputError, match=message):
        predictor(checkpoint).predict(batch_of(atoms))


def test_a_molecule_far_away(checkpoint, tmp_path):
    """Float64 sees it as near the origin; float32 cannot, unless a data set moves it."""
    near, far = water(), water()
    far.positions += 2.0**25
    settings = InferenceSettings(base_precision_dtype=torch.float64)
    (energy, forces), (energy_2, forces_2) = (
        calculated(checkpoint, atoms, settings) for atoms in (near, far)
    )
    assert energy_2 == pytest.approx(energy, abs=1e-6)
    assert forces_2 == pytest.approx(forces, abs=1e-5)
    with pytest.raises(
        InputError, match=r"^position .* in system 0, atom 0; expected within 8.4e\+04 Å of the"
    ):
        calculated(checkpoint, far)
    with AseLmdbWriter(tmp_path / "out") as writer:
        writer.write(far, sid="far")
    sample = AseDatabase({"src": str(tmp_path / "out")})[0]
    expected = batch_of(near)
    torch.testing.assert_close(sample.pos - sample.pos[0], expected.pos - expected.pos[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(cell=[9, 9, 9], pbc=True), "no atoms"),
        (Atoms("H", [[np.nan, 0, 0]]), "not finite: positions"),
        (Atoms("H", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 1e-9]], pbc=True), r"cell .* has no volume"),
    ],
)
def test_rows_that_no_model_computes_are_named(tmp_path, atoms, message):
    with AseLmdbWriter(tmp_path / "out") as writer:
        writer.write(water(), sid="a")
        writer.write(atoms, sid="b")
    data = AseDatabase({"src": str(tmp_path / "out")})
    assert len(data[0].pos) == 3
    with pytest.raises(InputError, match=rf"row 1 \(sid b\): {message}"):
        data[1]


def test_float64_is_exact_to_the_end(checkpoints):
    """Forces are derivatives of the energy to more digits than float32 has."""
    unit = predictor(checkpoints / "conservative.pt", InferenceSettings(base_precision_dtype=torch.float64))
    atoms = slab()
    atoms.calc = FAIRChemCalculator(unit, task_name="oc20")
    force, step, ends = atoms.get_forces(apply_constraint=False)[12, 2], 1e-4, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[12, 2] += sign * step
        moved.calc = atoms.calc
        ends.append(moved.get_potential_energy())
    assert force == pytest.approx(-(ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_stress_that_was_not_trained_has_no_mean_of_the_energy(checkpoints):
    """The stress is a derivative of the energy in eV; fairchem would add the energy's mean to it."""
    settings = InferenceSettings(base_precision_dtype=torch.float64)
    atoms, step, ends = crystal(), 1e-4, []
    atoms.calc = FAIRChemCalculator(predictor(checkpoints / "conservative.pt", settings), task_name="oc20")
    stress = atoms.get_stress(voigt=False)
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ (np.eye(3) + sign * step * np.diag([1, 0, 0])), scale_atoms=True)
        moved.calc = atoms.calc
        ends.append(moved.get_potential_energy())
    assert stress[0, 0] == pytest.approx((ends[0] - ends[1]) / (2 * step) / atoms.get_volume(), rel=1e-5)
    wanted = dataclasses.replace(settings, predict_untrained_stress={"oc20"})
    atoms.calc = FAIRChemCalculator(predictor(checkpoints / "conservative.pt", wanted), task_name="oc20")
    assert np.array_equal(atoms.get_stress(voigt=False), stress)


def test_direct_forces_have_no_stress(checkpoints):
    with pytest.raises(ValueError, match="Cannot add autograd-based 'stress' task"):
        predictor(checkpoints / "direct.pt", InferenceSettings(predict_untrained_stress={"oc20"}))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_derivative_normalised_by_itself_is_refused(tmp_path, precision):
    """Forces that are derivatives have the energy's scale; another one gives wrong forces silently."""
    smooth = {**SETTINGS, **SMOOTH, "direct_forces": False}
    wrong = dataclasses.replace(trained(conservative(), smooth), normalizers={"energy": (0.0, 2.0)})
    torch.save(build(wrong, "oc20"), tmp_path / "wrong.pt")
    message = r"'oc20_forces' is a derivative .* rmsd 1.0; expected mean 0.0 and rmsd 2.0"
    with pytest.raises(InputError, match=message):
        predictor(tmp_path / "wrong.pt", InferenceSettings(base_precision_dtype=precision))
    with pytest.raises(InputError, match=message):
        load_tasks(tmp_path / "wrong.pt")


@pytest.mark.parametrize("rmsd", [0.56, 0.5600000023841858])
def test_scales_are_compared_as_float32_does(tmp_path, rmsd):
    """In float64 too: 0.56 of a configuration is 0.5600000023841858 after float32."""
    smooth = {**SETTINGS, **SMOOTH, "direct_forces": False}
    normalizers = {"energy": (-3.0, rmsd), "forces": (0.0, 0.56)}
    model = dataclasses.replace(trained(conservative(), smooth), normalizers=normalizers)
    torch.save(build(model, "oc20"), tmp_path / "scaled.pt")
    assert len(load_tasks(tmp_path / "scaled.pt")) == 2
    for precision in (torch.float32, torch.float64):
        unit = predictor(tmp_path / "scaled.pt", InferenceSettings(base_precision_dtype=precision))
        scales = {name: task.normalizer.rmsd for name, task in unit.tasks.items()}
        assert set(scales) == {"oc20_energy", "oc20_forces", "oc20_stress"}
        assert scales["oc20_stress"].dtype == precision
        assert torch.equal(scales["oc20_stress"], scales["oc20_energy"])
        unit.predict(batch_of(slab(), dtype=precision))


def test_whole_numbers_are_floats():
    """``energy_mean: 0`` is the float 0.0, where fairchem's own normalizer fails."""
    task = {"_target_": "ocp_scn.fairchem.v2.float_normalizer", "mean": 0, "rmsd": 2}
    normalizer = hydra.utils.instantiate(task)
    assert normalizer(torch.tensor([0.25])).tolist() == [0.5]
    assert normalizer.mean.dtype == normalizer.rmsd.dtype == torch.float32
    with pytest.raises(InputError, match=r"normalizer.rmsd=0; expected a number above 0"):
        float_normalizer(0, 0)
    with pytest.raises(InputError, match=r"normalizer.mean='none'; expected a number"):
        float_normalizer("none", 1)


def test_element_references_are_added(checkpoints, tmp_path):
    references = np.linspace(0, 5, 119).tolist()
    torch.save(build(trained(direct(), SETTINGS, references=references), "oc20"), tmp_path / "refs.pt")
    shift = sum(references[number] for number in slab().numbers)
    plain, _ = calculated(checkpoints / "direct.pt", slab())
    assert calculated(tmp_path / "refs.pt", slab())[0] == pytest.approx(plain + shift, abs=1e-5)


def test_relaxation(checkpoint):
    """ASE's L-BFGS lowers the gradient forces, and leaves fixed atoms where they are."""
    atoms = slab()
    start = atoms.positions.copy()
    atoms.calc = FAIRChemCalculator(predictor(checkpoint), task_name="oc20")
    before = atoms.get_potential_energy()
    LBFGS(atoms, logfile=None, maxstep=0.02).run(fmax=1e-3, steps=10)
    assert np.isfinite(atoms.get_potential_energy())
    assert np.array_equal(atoms.positions[:8], start[:8])
    assert np.abs(atoms.positions[8:] - start[8:]).max() > 1e-3
    if checkpoint.stem == "conservative":
        assert atoms.get_potential_energy() < before


def test_dynamics_conserve_the_energy_of_gradient_forces(checkpoints):
    atoms = crystal()
    atoms.calc = FAIRChemCalculator(
        predictor(checkpoints / "conservative.pt", InferenceSettings(base_precision_dtype=torch.float64)),
        task_name="oc20",
    )
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    total = []
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    dynamics.attach(lambda: total.append(atoms.get_total_energy()))
    dynamics.run(30)
    assert np.ptp(total) < 0.02 * atoms.get_kinetic_energy()


def test_doubled_ids_are_refused_before_anything_is_predicted(checkpoints, tmp_path, monkeypatch):
    """And rows without a sid are named by their numbers, as fairchem does."""
    monkeypatch.setattr("ocp_scn.fairchem.v2.predict.predict", lambda *_: pytest.fail("predicted"))
    with AseLmdbWriter(tmp_path / "data") as writer:
        for fid in (0, 1, 0):
            writer.write(slab(), sid="a", fid=fid)
    results = tmp_path / "predictions.npz"
    with pytest.raises(InputError, match="two systems have the id 'a_0'; predictions need distinct ones"):
        PredictRunner(str(checkpoints / "direct.pt"), str(tmp_path / "data"), str(results)).run()
    assert not results.exists()
    monkeypatch.undo()
    with AseLmdbWriter(tmp_path / "bare") as writer:
        for seed in (0, 1):
            writer.write(slab(seed))
    PredictRunner(str(checkpoints / "direct.pt"), str(tmp_path / "bare"), str(results)).run()
    assert np.load(results)["ids"].tolist() == read_structures(tmp_path / "bare").ids.tolist() == ["0", "1"]
