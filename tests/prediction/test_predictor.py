"""The predictor with the weights that ship: its records, options and errors, a model of each architecture."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import (
    DeviceError,
    DisorderedStructureError,
    EmptyStructureError,
    IsolatedAtomError,
    MissingCellError,
    ModelError,
    NonFiniteError,
    OverlappingAtomsError,
    SingularCellError,
    StructureError,
    UnsupportedElementError,
    VacuumError,
)
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.models.model import Model
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction.built_graph import BuiltGraph
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.unchanged import within_error
from deeprelax_ase.uncertainty.calibration import FEATURES, Calibration, ErrorModel
from tests.crystals import BY_DISTANCES, CRYSTALS, DISTORTED, END_TO_END, assert_same, every_crystal, step_between


def test_the_default_model_is_the_end_to_end_one():
    assert Predictor(device="cpu").model_name == DEFAULT_MODEL == END_TO_END


@pytest.mark.parametrize("name", ["one atom", "skewed", "unwrapped", "left-handed"])
def test_awkward_cells(predictor: Predictor, sample_crystals, name: str):
    crystal = sample_crystals[name]
    prediction = predictor.predict(crystal)
    assert len(prediction.relaxed) == len(crystal)
    assert np.isfinite(prediction.relaxed.positions).all()
    assert np.sign(np.linalg.det(prediction.relaxed.cell)) == np.sign(np.linalg.det(crystal.cell))
    assert -0.8 < prediction.volume_change < 0.6  # AlN has three times too much space in the skewed cell
    assert np.isfinite(prediction.uncertainty.total)


def test_one_atom_stays_in_its_cell(predictor: Predictor, sample_crystals):
    crystal = sample_crystals["one atom"]
    prediction = predictor.predict(crystal)
    np.testing.assert_allclose(
        prediction.relaxed.fractional_positions, crystal.fractional_positions, rtol=0, atol=1e-12
    )
    assert prediction.uncertainty.per_atom.shape == (1,)


@every_crystal
def test_record_is_complete(predictor: Predictor, crystal: Crystal):
    prediction = predictor.predict(crystal)
    uncertainty = prediction.uncertainty
    assert prediction.initial is crystal
    assert prediction.model == predictor.model_name
    np.testing.assert_array_equal(prediction.relaxed.numbers, crystal.numbers)
    assert 0 < uncertainty.total < 5
    assert uncertainty.total == pytest.approx(np.hypot(uncertainty.aleatoric, uncertainty.epistemic), rel=1e-5)
    assert uncertainty.per_atom.shape == (len(crystal),)
    assert uncertainty.per_bond.shape == (len(uncertainty.bonds),)
    assert uncertainty.bonds.shape[1] == 5
    assert set(np.unique(uncertainty.bonds[:, :2])) <= set(range(len(crystal)))
    assert set(prediction.timings) == {"graph", "network", "geometry"}
    assert min(prediction.timings.values()) > 0
    assert prediction.solver_converged
    if predictor.model_name == END_TO_END:
        assert min(vars(prediction.features).values()) >= 0
        assert (prediction.error is None) == (predictor.calibration is None)
        assert prediction.solver_steps == 0
    else:
        assert prediction.features is None
        assert prediction.error is None


# Graphs that were built before


def test_a_prediction_goes_on_from_a_graph_that_is_the_models():
    """The graph handed in is of a longer crystal, so that it shows whether it is read."""
    predictor, crystal = Predictor(END_TO_END, device="cpu", leave_within_error=False), CRYSTALS["rocksalt"]
    other = crystal.with_geometry(crystal.positions * 1.05, crystal.cell * 1.05)
    settings = predictor.model.config.graph
    own, of_other = (BuiltGraph.of(c, settings) for c in (crystal, other))
    built = predictor.predict(crystal)
    assert_same(predictor.predict(crystal, graph=own), built, atol=0)
    read = predictor.predict(crystal, graph=of_other)
    np.testing.assert_array_equal(read.relaxed.cell, predictor.predict(other).relaxed.cell)
    assert not np.allclose(read.relaxed.cell, built.relaxed.cell, rtol=0, atol=1e-5)
    for unlike in (replace(settings, max_neighbors=20), replace(settings, max_in_cell=20)):
        made = predictor.predict(crystal, graph=of_other._replace(settings=unlike))
        np.testing.assert_array_equal(made.relaxed.cell, built.relaxed.cell)


# Crystals that are as good as relaxed


def test_a_crystal_within_its_error_is_left_exactly_as_it_is():
    """From where the model itself sees the minimum there is not far to go."""
    predictor = Predictor(END_TO_END, device="cpu")
    moving = Predictor(END_TO_END, device="cpu", leave_within_error=False)
    left = []
    for name in ("rocksalt", "triclinic"):
        near = moving.predict(CRYSTALS[name])
        assert not near.unchanged
        free, again = moving.predict(near.relaxed), predictor.predict(near.relaxed)
        left.append(bool(again.unchanged))
        step = np.array([step_between(near.relaxed, free.relaxed)])
        cells = near.relaxed.cell[None], free.relaxed.cell[None]
        assert [bool(again.unchanged)] == within_error(*cells, [again.error], step).tolist()
        end = near.relaxed if again.unchanged else free.relaxed
        np.testing.assert_array_equal(again.relaxed.positions, end.positions)
        np.testing.assert_array_equal(again.relaxed.cell, end.cell)
    assert any(left)


# The caller's objects


def snapshot(atoms: Atoms) -> dict:
    return copy.deepcopy(
        {
            "arrays": atoms.arrays,
            "cell": atoms.cell.array,
            "pbc": atoms.pbc,
            "info": atoms.info,
            "fixed": [c.todict() for c in atoms.constraints],
            "results": atoms.calc.results,
        }
    )


def test_callers_atoms_stay(predictor: Predictor):
    atoms = CRYSTALS["rattled rocksalt"].to_atoms()
    atoms.set_initial_magnetic_moments(np.arange(8.0))
    atoms.set_tags(range(8))
    atoms.info["id"] = {"nested": [1, 2]}
    atoms.calc = calculator = EMT()
    before = snapshot(atoms)
    predictor.predict(atoms)
    list(predictor.predict_many([atoms, atoms]))
    after = snapshot(atoms)
    np.testing.assert_equal(after, before)
    assert atoms.calc is calculator


def test_structures_of_all_kinds(predictor: Predictor):
    pytest.importorskip("pymatgen")
    crystal = CRYSTALS["triclinic"]
    expected = predictor.predict(crystal)
    structure = crystal.to_structure()
    assert_same(expected, predictor.predict(crystal.to_atoms()), atol=0)
    assert_same(expected, predictor.predict(structure), atol=1e-5)
    assert structure == crystal.to_structure()


def test_anything_else_is_refused(predictor: Predictor):
    with pytest.raises(TypeError, match=r"got str\. Read a file with ase\.io\.read first"):
        predictor.predict("POSCAR")


def test_callers_model_stays(model: Model, make):
    before = {key: tensor.clone() for key, tensor in model.networks.state_dict().items()}
    single, double = make(dtype="float32", members=1), make(dtype="float64", members=1)
    a, b = double.predict(CRYSTALS["triclinic"]), single.predict(CRYSTALS["triclinic"])
    assert_same(a, b, atol=1e-3)
    assert not np.array_equal(a.relaxed.cell, b.relaxed.cell)
    for key, tensor in model.networks.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[key])


def test_two_calls_agree_bitwise(make):
    predictor = make(members=1)
    first, second = (list(predictor.predict_many(CRYSTALS.values())) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_same(a, b, atol=0)
    for name in DISTORTED[:1]:
        assert_same(predictor.predict(CRYSTALS[name]), predictor.predict(CRYSTALS[name]), atol=0)


# Options and errors


def test_says_what_it_is(make, model: Model):
    assert repr(make(dtype="float64")) == f"Predictor('{model.card.name}', device='cpu', dtype='float64')"


class TestSolver:
    """Of the paper's network."""

    def test_settings(self, shipped):
        model = shipped(BY_DISTANCES)
        assert Predictor(model, device="cpu").settings.solver == EDGSettings(**model.card.solver)
        lazy = Predictor(model, device="cpu", solver=EDGSettings(max_steps=0))
        prediction = lazy.predict(CRYSTALS["triclinic"])
        assert prediction.solver_steps == 0
        assert not prediction.solver_converged

    def test_settings_of_another_version(self, shipped):
        model = shipped(BY_DISTANCES)
        card = replace(model.card, solver={"patience": 3})
        with pytest.raises(ModelError, match="patience"):
            Predictor(Model(card, model.networks), device="cpu")


class TestRecycles:
    """Of the end-to-end network, and the calibration that belongs to so many of them."""

    @pytest.fixture
    def calibrated(self, shipped) -> Model:
        """The model with a calibration of three recycles."""
        size = len(FEATURES)
        factors = ((2.0,), (3.0,), (4.0,), (5.0,), (6.0,))
        law = ErrorModel(intercept=0.0, exponents=(0.5,) * size, ceiling=0.2, sizes=factors, factors=factors)
        calibration = Calibration(3, law, replace(law, intercept=-1.0), ood_limits=(1.0,) * size)
        model = shipped(END_TO_END)
        return Model(replace(model.card, recycles=3, calibration={"3": calibration.to_dict()}), model.networks)

    def test_number_of_the_card(self, calibrated: Model):
        predictor = Predictor(calibrated, device="cpu")
        assert predictor.recycles == predictor.calibration.recycles == 3
        for name, factor in {"triclinic": 3.0, "hcp": 2.0}.items():  # with and without oxygen
            error = predictor.predict(CRYSTALS[name]).error
            assert error.coordinates_bound == pytest.approx(factor * error.coordinates)
            assert error.volume_bound == pytest.approx(factor * error.volume)
            assert 0 < error.volume < error.coordinates

    @pytest.mark.parametrize("recycles", [1, 2, 4])
    def test_calibration_is_for_one_number_of_recycles(self, calibrated: Model, recycles: int):
        other = Predictor(calibrated, device="cpu", recycles=recycles)
        prediction = other.predict(CRYSTALS["triclinic"])
        assert other.calibration is None
        assert prediction.error is None
        assert prediction.features is not None
        assert set(prediction.info) == {"deeprelax_model", "deeprelax_status", "deeprelax_uncertainty"}

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda values: [*values], "list indices"),
            (lambda values: values | {"volume": {}}, "exponents"),
            (lambda values: values | {"ood_limits": [1.0, 2.0]}, "2 limits for 9 error features"),
            (lambda values: {name: values[name] for name in values if name != "coordinates"}, "coordinates"),
        ],
    )
    def test_a_broken_calibration(self, calibrated: Model, change, reason: str):
        card = replace(calibrated.card, calibration={"3": change(calibrated.card.calibration["3"])})
        with pytest.raises(ModelError, match=f"{card.name}: the card's calibration is not of this version: .*{reason}"):
            Predictor(Model(card, calibrated.networks), device="cpu")


def test_unknown_options(make):
    with pytest.raises(ValueError, match=r"Unknown dtype='float16', must be one of .*float32.*float64"):
        make(dtype="float16")
    with pytest.raises(ValueError, match=r"Unknown graph_backend='dgl', must be one of .*matgl"):
        make(graph_backend="dgl")
    with pytest.raises(ModelError, match=f"Unknown model 'M3GNet', must be one of: .*{DEFAULT_MODEL}"):
        make(model="M3GNet")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:4096"])
def test_nonsense_device(make, device: str):
    with pytest.raises(DeviceError, match=f"device '{device}' is not available.*'auto', 'cpu'"):
        make(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda(make):
    with pytest.raises(DeviceError, match=r"device 'cuda' is not available.*Use 'auto', 'cpu', or .*CUDA"):
        make(device="cuda")
    assert make(device="auto").device.type == "cpu"


def cu(**changes) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def shared_site() -> Atoms:
    atoms = cu()
    atoms.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}
    return atoms


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        (Atoms(cell=np.eye(3), pbc=True), EmptyStructureError, "no atoms; check the file"),
        (molecule("H2O"), MissingCellError, r"no periodic cell.*atoms\.pbc = True"),
        (cu(pbc=(True, False, False)), VacuumError, "a wire, which repeats in one direction only.*calculator"),
        (cu(cell=np.ones((3, 3))), SingularCellError, "linearly dependent.*complete"),
        (cu(positions=np.full((4, 3), np.inf)), NonFiniteError, r"NaN or infinity in .* atoms \[0, 1, 2, 3\]"),
        (cu(positions=np.zeros((4, 3))), OverlappingAtomsError, "0.000 Å apart.*duplicate"),
        (cu(cell=np.eye(3) * 0.3), OverlappingAtomsError, "Check the lengths of the cell and their unit"),
        (Atoms("Cu", cell=np.eye(3) * 20, pbc=True), IsolatedAtomError, "no neighbour within 6.0 Å.*vacuum"),
        (cu(numbers=[29, 86, 2, 29]), UnsupportedElementError, "MODEL was not trained on He, Rn"),
        (cu(numbers=[29, 29, 0, 29]), UnsupportedElementError, r"atomic numbers \[0\] are those of no element"),
        (shared_site(), DisorderedStructureError, "site 0 is occupied by .*ordered structure first"),
    ],
)
def test_errors_teach_the_mend(make, structure: Atoms, error: type[StructureError], message: str):
    predictor = make()
    with pytest.raises(error, match=message.replace("MODEL", predictor.model_name)):
        predictor.predict(structure)
