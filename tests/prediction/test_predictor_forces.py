"""The predictor where forces are known, by a small network that reads them: what ships need not have learnt it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import MissingCellError, ModelError, UnsupportedElementError
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax_e3 import network_input
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.calibration import FEATURES, Calibration, ErrorModel
from deeprelax_ase.uncertainty.kinds import KINDS
from tests.crystals import BY_DISTANCES, CRYSTALS, DISTORTED, assert_same, rotation

CONFIG = DeepRelaxE3Config(
    channels=8, num_blocks=2, layers_per_block=1, num_basis=10, levels=("PBE", "M3GNet"), reads_forces=True
)
TRICLINIC = CRYSTALS["triclinic"]
every_name = pytest.mark.parametrize("name", [*DISTORTED, "wurtzite"])


def write_model(folder: Path, name: str, *, reads_forces: bool) -> Path:
    """The card of two members with random weights, calibrated for one recycle."""
    torch.manual_seed(5)
    networks = [DeepRelaxE3(CONFIG) for _ in range(2)]
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
        for block in network.blocks:  # so that crystals strain by some per cent, and atoms move by some 0.01 Å
            for parameter in block.refinement.gates[-1].parameters():
                torch.nn.init.normal_(parameter, std=0.02)
    factors = ((2.0,),) * len(KINDS)
    law = ErrorModel(intercept=0.0, exponents=(0.5,) * len(FEATURES), ceiling=0.2, sizes=factors, factors=factors)
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split"), "")
    words |= {"elements": list(range(1, 95)), "level": "M3GNet"}
    calibration = {"1": Calibration(1, law, law, ood_limits=(1.0,) * len(FEATURES)).to_dict()}
    save_model(networks, folder, name, reads_forces=reads_forces, calibration=calibration, **words)
    return folder / f"{name}.json"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "reader", reads_forces=True)


@pytest.fixture(scope="module")
def make(card: Path) -> Callable[..., Predictor]:
    """``make(recycles=2)``: exact predictors, which keep no symmetry unless asked."""
    options = {"device": "cpu", "dtype": "float64", "keep_symmetry": False}
    return lambda **kwargs: Predictor(card, **{**options, **kwargs})


@pytest.fixture(scope="module")
def predictor(make: Callable[..., Predictor]) -> Predictor:
    return make()


def found_in(crystal: Crystal) -> tuple[np.ndarray, np.ndarray]:
    """Random forces, of some eV/Å, and a stress that pulls as hard."""
    rng = np.random.default_rng(1)
    stress = rng.normal(size=(3, 3)) * len(crystal) / crystal.volume
    return rng.normal(size=(len(crystal), 3)), stress + stress.T


def distance(a: Prediction, b: Prediction) -> float:
    """Å, the largest between relaxed positions or lattice vectors."""
    pairs = ((a.relaxed.positions, b.relaxed.positions), (a.relaxed.cell, b.relaxed.cell))
    return max(float(np.abs(one - other).max()) for one, other in pairs)


# Who has learnt it


def test_the_card_says_it(predictor: Predictor, card: Path, shipped):
    assert ModelCard.read(card).reads_forces
    assert predictor.reads_forces
    assert not Predictor(shipped(BY_DISTANCES), device="cpu").reads_forces


def test_others_refuse(tmp_path: Path, shipped):
    for model in (write_model(tmp_path, "untaught", reads_forces=False), shipped(BY_DISTANCES)):
        untaught = Predictor(model, device="cpu")
        with pytest.raises(ModelError, match=f"^{untaught.model_name} has not learnt to read forces"):
            untaught.predict_with_forces(TRICLINIC, *found_in(TRICLINIC))
        with pytest.raises(ModelError, match="has not learnt to read forces"):
            next(untaught.predict_many_with_forces([(TRICLINIC, *found_in(TRICLINIC))]))


# What comes of it


@every_name
def test_forces_and_stress_tell(predictor: Predictor, name: str):
    crystal = CRYSTALS[name]
    forces, stress = found_in(crystal)
    corrected = predictor.predict_with_forces(crystal, forces, stress)
    for other in ((0 * forces, stress), (forces, 0 * stress), (-forces, stress), (forces, -stress)):
        assert distance(corrected, predictor.predict_with_forces(crystal, *other)) > 1e-4
    assert distance(corrected, predictor.predict(crystal)) > 1e-4


@every_name
def test_it_is_the_mean_of_what_the_networks_read(predictor: Predictor, name: str):
    crystal = CRYSTALS[name]
    forces, stress = found_in(crystal)
    known = KnownForces(
        forces=torch.from_numpy(forces),
        virial=torch.from_numpy(crystal.volume * stress)[None],
        has_forces=torch.ones(1, dtype=torch.bool),
    )
    given = network_input(build_graph([crystal], settings=CONFIG.graph), 1, known)
    with torch.inference_mode():
        last = [network.refine(given)[-1] for network in predictor.model.networks]
    moves = torch.stack([member.displacements for member in last]).mean(dim=0).numpy()
    strain = torch.stack([member.strain[0] for member in last]).mean(dim=0)
    cell = crystal.cell @ torch.linalg.matrix_exp(strain).numpy()
    relaxed = predictor.predict_with_forces(crystal, forces, stress).relaxed
    np.testing.assert_allclose(relaxed.cell, cell, rtol=0, atol=1e-9)
    np.testing.assert_allclose(relaxed.positions, crystal.fractional_positions @ cell + moves, rtol=0, atol=1e-9)


def test_record(predictor: Predictor):
    corrected, predicted = predictor.predict_with_forces(TRICLINIC, *found_in(TRICLINIC)), predictor.predict(TRICLINIC)
    assert corrected.initial is TRICLINIC
    assert corrected.model == "reader"
    assert corrected.solver_converged
    assert predicted.error is not None
    assert corrected.error is None  # the calibration is that of jumps without forces
    assert set(corrected.info) == {"deeprelax_model", "deeprelax_status", "deeprelax_uncertainty"}
    assert min(vars(corrected.features).values()) >= 0
    assert 0 < corrected.uncertainty.total < 5
    assert set(corrected.timings) == {"graph", "network", "geometry"}


def test_there_is_one_recycle(make):
    once, thrice = make(recycles=1), make(recycles=3)
    found = found_in(TRICLINIC)
    assert_same(once.predict_with_forces(TRICLINIC, *found), thrice.predict_with_forces(TRICLINIC, *found), atol=0)
    assert distance(once.predict(TRICLINIC), thrice.predict(TRICLINIC)) > 1e-4


@every_name
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_it_turns_with_crystal_forces_and_stress(predictor: Predictor, name: str, sign: int):
    crystal, q = CRYSTALS[name], sign * rotation(4)
    forces, stress = found_in(crystal)
    before = predictor.predict_with_forces(crystal, forces, stress)
    turned = crystal.with_geometry(crystal.positions @ q, crystal.cell @ q)
    after = predictor.predict_with_forces(turned, forces @ q, q.T @ stress @ q)
    np.testing.assert_allclose(after.relaxed.cell, before.relaxed.cell @ q, rtol=0, atol=1e-10)
    np.testing.assert_allclose(after.relaxed.positions, before.relaxed.positions @ q, rtol=0, atol=1e-10)
    assert after.uncertainty.total == pytest.approx(before.uncertainty.total, abs=1e-10)


@every_name
def test_a_supercell_under_the_same_stress_relaxes_alike(predictor: Predictor, name: str):
    crystal = CRYSTALS[name]
    forces, stress = found_in(crystal)
    once = predictor.predict_with_forces(crystal, forces, stress).relaxed
    twice = predictor.predict_with_forces(crystal.to_atoms() * (1, 2, 1), np.tile(forces, (2, 1)), stress).relaxed
    np.testing.assert_allclose(twice.cell, np.diag([1, 2, 1]) @ once.cell, rtol=0, atol=1e-10)
    repeated = np.concatenate([once.positions, once.positions + once.cell[1]])
    np.testing.assert_allclose(twice.positions, repeated, rtol=0, atol=1e-10)


def test_the_cell_may_be_kept(predictor: Predictor):
    kept = predictor.predict_with_forces(TRICLINIC, *found_in(TRICLINIC), relax_cell=False)
    np.testing.assert_array_equal(kept.relaxed.cell, TRICLINIC.cell)
    assert np.abs(kept.displacements).max() > 1e-3


@pytest.mark.parametrize("atoms_per_batch", [1, 12, None])
def test_many_are_what_each_is(predictor: Predictor, atoms_per_batch: int | None):
    crystals = [CRYSTALS[name] for name in DISTORTED]
    found = [(crystal, *found_in(crystal)) for crystal in crystals]
    found[1:1] = [(molecule("H2O"), np.zeros((3, 3)), np.zeros(6)), (crystals[0], -found[0][1], -found[0][2])]
    refused, *made = predictor.predict_many_with_forces(
        (found[k] for k in (1, 0, *range(2, len(found)))), atoms_per_batch=atoms_per_batch
    )
    assert isinstance(refused, MissingCellError)
    for one, given in zip(made, (found[0], *found[2:]), strict=True):
        assert_same(one, predictor.predict_with_forces(*given), atol=1e-9)


@pytest.mark.parametrize("keep", [True, False])
def test_symmetry_is_kept_as_in_the_first_jump(make, keep: bool):
    """Whatever noise there is in the forces."""
    crystal = CRYSTALS["perovskite"]
    moves = make(keep_symmetry=keep).predict_with_forces(crystal, *found_in(crystal)).displacements
    assert bool(np.abs(moves).max() < 1e-10) == keep


# What it takes


def test_stress_may_be_a_matrix_or_as_ase_gives_it(predictor: Predictor):
    atoms = CRYSTALS["rattled rocksalt"].to_atoms()
    atoms.symbols = "Cu8"
    atoms.set_cell(1.2 * atoms.cell.array, scale_atoms=True)
    atoms.calc = EMT()
    forces, voigt, matrix = atoms.get_forces(), atoms.get_stress(), atoms.get_stress(voigt=False)
    assert voigt.shape == (6,)
    expected = predictor.predict_with_forces(atoms, forces, matrix)
    assert_same(expected, predictor.predict_with_forces(atoms, forces, voigt), atol=0)
    assert_same(expected, predictor.predict_with_forces(atoms, forces.tolist(), matrix.tolist()), atol=0)
    assert_same(expected, predictor.predict_with_forces(Crystal.of(atoms), forces, voigt), atol=0)
    assert distance(expected, predictor.predict_with_forces(atoms, forces, voigt[[0, 1, 2, 5, 4, 3]])) > 1e-5


def test_only_the_symmetric_part_of_the_stress_counts(predictor: Predictor):
    forces, stress = found_in(TRICLINIC)
    twisted = stress + np.array([[0, 1, -2], [-1, 0, 3], [2, -3, 0]]) / TRICLINIC.volume
    expected = predictor.predict_with_forces(TRICLINIC, forces, stress)
    assert_same(expected, predictor.predict_with_forces(TRICLINIC, forces, twisted), atol=1e-12)


def test_callers_objects_stay(predictor: Predictor):
    atoms, (forces, stress) = TRICLINIC.to_atoms(), found_in(TRICLINIC)
    before = forces.copy(), stress.copy()
    predictor.predict_with_forces(atoms, forces, stress)
    assert atoms == TRICLINIC.to_atoms()
    np.testing.assert_array_equal(forces, before[0])
    np.testing.assert_array_equal(stress, before[1])


def test_single_precision_will_do(predictor: Predictor, make):
    single, (forces, stress) = make(dtype="float32"), found_in(TRICLINIC)
    expected = predictor.predict_with_forces(TRICLINIC, forces, stress)
    assert_same(expected, single.predict_with_forces(TRICLINIC, forces, stress), atol=1e-3)
    overlapping = single.predict_with_forces(TRICLINIC, 1e12 * forces, 1e12 * stress).relaxed
    assert np.isfinite(overlapping.positions).all()
    assert np.isfinite(overlapping.cell).all()


@pytest.mark.parametrize(
    ("forces", "stress", "message"),
    [
        (np.zeros((3, 3)), np.zeros(6), r"forces must be \(4, 3\) finite numbers, got an array of shape \(3, 3\)"),
        (np.zeros((4, 2)), np.zeros(6), r"forces must be .* shape \(4, 2\)"),
        (np.zeros(12), np.zeros(6), r"forces must be .* shape \(12,\)"),
        (np.full((4, 3), np.nan), np.zeros(6), r"forces must be \(4, 3\) finite numbers.*nan"),
        (np.full((4, 3), np.inf), np.zeros(6), r"forces must be \(4, 3\) finite numbers.*inf"),
        (np.zeros((4, 3)), np.zeros(9), r"stress must be \(3, 3\) finite numbers, got an array of shape \(9,\)"),
        (np.zeros((4, 3)), np.zeros((1, 3, 3)), r"stress must be .* shape \(1, 3, 3\)"),
        (np.zeros((4, 3)), 0.0, r"stress must be .* shape \(\)"),
        (np.zeros((4, 3)), np.array([0, 0, 0, 0, np.nan, 0]), r"stress must be .*nan"),
        (np.zeros((4, 3)), np.diag([0, np.inf, 0]), r"stress must be .*inf"),
    ],
    ids=["too few", "no vectors", "flat", "nan", "inf", "nine", "batch", "number", "nan stress", "inf stress"],
)
def test_other_forces_and_stresses_are_refused(predictor: Predictor, forces, stress, message: str):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        predictor.predict_with_forces(TRICLINIC, forces, stress)


def test_structures_that_cannot_be_relaxed_are_refused(predictor: Predictor):
    curium = bulk("Cu", cubic=True)
    curium.numbers[1] = 96
    with pytest.raises(UnsupportedElementError, match="reader was not trained on Cm"):
        predictor.predict_with_forces(curium, np.zeros((4, 3)), np.zeros(6))
    with pytest.raises(MissingCellError):
        predictor.predict_with_forces(molecule("H2O"), np.zeros((3, 3)), np.zeros(6))
