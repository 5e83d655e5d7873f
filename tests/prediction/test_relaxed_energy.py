"""Energies of relaxed crystals, as predictions tell them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixCartesian

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult
from tests.crystals import CRYSTALS, every_crystal, rotation
from tests.prediction.small_networks import make_model, predictor, with_head


@pytest.fixture(scope="module")
def small() -> Predictor:
    """A predictor whose head has random weights, so that every number matters."""
    return predictor(with_head(make_model(members=1)), recycles=2)


def energies_of(predictor: Predictor, *crystals: Crystal) -> np.ndarray:
    """(n, 2) eV/atom, energies and bounds."""
    told = [prediction.energy for prediction in predictor.predict_many(crystals)]
    return np.array([(energy.energy, energy.bound) for energy in told])


@every_crystal
def test_they_are_the_same_turned_shifted_and_in_another_order(small: Predictor, crystal: Crystal):
    turn, order = rotation(3), np.random.default_rng(2).permutation(len(crystal))
    moved = (crystal.positions + np.array([0.3, -1.7, 2.9]))[order] @ turn.T
    same = Crystal(crystal.numbers[order], moved, crystal.cell @ turn.T)
    np.testing.assert_allclose(energies_of(small, same), energies_of(small, crystal), rtol=1e-8)


@every_crystal
def test_a_supercell_has_the_same_an_atom(small: Predictor, crystal: Crystal):
    supercell = Crystal.of(crystal.to_atoms().repeat((2, 1, 1)))
    np.testing.assert_allclose(energies_of(small, supercell), energies_of(small, crystal), rtol=1e-8)


def test_a_batch_is_its_crystals(small: Predictor):
    alone = [energies_of(small, crystal)[0] for crystal in CRYSTALS.values()]
    np.testing.assert_allclose(energies_of(small, *CRYSTALS.values()), alone, rtol=1e-8)


def test_more_recycles_and_members_change_nothing_of_them(small: Predictor):
    crystal = CRYSTALS["rattled perovskite"]
    for other in (
        predictor(with_head(make_model(members=1)), recycles=1),
        predictor(with_head(make_model(members=2)), recycles=2),
    ):
        np.testing.assert_allclose(energies_of(other, crystal), energies_of(small, crystal), rtol=1e-8)


def layer() -> Atoms:
    return fcc111("Al", (1, 1, 1), vacuum=8.0, periodic=True)


def slab() -> Atoms:
    return fcc111("Al", (1, 1, 4), vacuum=8.0, periodic=True)


def held(*constraints) -> Atoms:
    atoms = bulk("Al", cubic=True)
    atoms.set_constraint(constraints)
    return atoms


IN_PLANE = AllowedStrain((1, 1, 0, 0, 0, 1))
ACROSS = AllowedStrain((1, 0, 1, 0, 1, 0))


@pytest.mark.parametrize(
    ("atoms", "relax_cell", "told"),
    [
        (held(), None, True),
        (held(), True, True),
        (held(), AllowedStrain(), True),
        (held(), False, False),
        (held(), IN_PLANE, False),
        (held(), AllowedStrain((0,) * 6), False),
        (held(), AllowedStrain(hydrostatic=True), False),
        (held(), AllowedStrain(constant_volume=True), False),
        (held(FixAtoms([0])), None, False),
        (held(FixCartesian([1], (False, False, True))), None, False),
        (layer(), None, True),
        (layer(), False, False),
        (layer(), IN_PLANE, True),  # in which alone it is strained anyway
        (layer(), AllowedStrain((1, 1, 1, 0, 0, 1)), True),
        (layer(), ACROSS, False),
        (layer(), AllowedStrain((1, 1, 0, 0, 0, 0)), False),
        (layer(), AllowedStrain((1, 1, 0, 0, 0, 1), constant_volume=True), False),
        (slab(), None, True),
        (slab(), False, True),
        (slab(), True, False),
        (slab(), IN_PLANE, False),
    ],
)
def test_only_crystals_that_move_as_those_of_the_labels_have_one(small: Predictor, atoms: Atoms, relax_cell, told):
    assert (small.predict(atoms, relax_cell=relax_cell).energy is not None) == told
    free, one = small.predict_many([layer(), atoms], relax_cell=relax_cell)  # in a batch with another
    assert (one.energy is not None) == told
    frees = (None, True, AllowedStrain(), IN_PLANE, AllowedStrain((1, 1, 1, 0, 0, 1)))
    assert (free.energy is not None) == (relax_cell in frees)


def test_where_the_symmetry_is_to_be_kept_there_is_none():
    keeping = Predictor(with_head(make_model(members=1)), device="cpu", keep_symmetry=True)
    assert keeping.predict(CRYSTALS["rocksalt"]).energy is None


def test_models_without_a_head_tell_none():
    assert predictor(make_model(members=1)).predict(CRYSTALS["rocksalt"]).energy is None


def test_results_and_notebooks_tell_them(small: Predictor):
    prediction = small.predict(CRYSTALS["rocksalt"])
    row = RelaxationResult.of(prediction).columns()
    told = {name.removeprefix("energy_relaxed"): row[name] for name in row if name.startswith("energy_relaxed")}
    assert told == {"": prediction.energy.energy, "_bound": prediction.energy.bound, "_potential": "some potential"}
    assert {f"deeprelax_energy_relaxed{name}": value for name, value in told.items()}.items() <= prediction.info.items()
    shown = f"{prediction.energy.energy:.3f} ± {prediction.energy.bound:.3f} eV/atom in 9 of 10, under some potential"
    assert prediction.facts["energy when relaxed"] == shown


def test_they_leave_with_a_finish(small: Predictor):
    prediction = small.predict(CRYSTALS["rocksalt"])
    finished = RelaxationResult.finished(prediction.initial, prediction.relaxed, converged=True, prediction=prediction)
    assert finished.energy_relaxed is None


@pytest.mark.parametrize(("name", "pbe"), [("Si", -5.42), ("Cu", -4.10), ("Al", -3.74)])
def test_the_shipped_head_knows_elements(shipped, name: str, pbe: float):
    """Energies of PBE, eV/atom, as the Materials Project has them to two digits."""
    energy = Predictor(shipped("DeepRelax-PBE"), device="cpu").predict(bulk(name)).energy
    assert abs(energy.energy - pbe) < 0.05
    assert energy.potential == "Nequix-OAM-1"
