"""Energies of relaxed crystals, as predictions tell them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn.energy_head import EnergyHead
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.uncertainty.calibration import KINDS
from tests.crystals import CRYSTALS, every_crystal, rotation
from tests.prediction.small_networks import CONFIG, make_model, predictor

TOLD = {"potential": "some potential", "factors": dict.fromkeys(KINDS, 2.5)}


@pytest.fixture(scope="module")
def small() -> Predictor:
    """A predictor whose head has random weights, so that every number matters."""
    return predictor(with_head(make_model(members=1)), recycles=2)


def with_head(model: Model) -> Model:
    torch.manual_seed(5)
    head = EnergyHead(CONFIG.channels, CONFIG.num_blocks, CONFIG.num_elements, hidden=12, pooled=6)
    torch.nn.init.normal_(head.elements)
    return replace(model, card=replace(model.card, energy=TOLD), energy=head.eval())


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


def test_where_a_cell_is_kept_slabs_alone_have_one(small: Predictor):
    slab = fcc111("Al", (1, 1, 4), vacuum=8.0, periodic=True)
    assert small.predict(slab, relax_cell=False).energy is not None
    assert small.predict(bulk("Al"), relax_cell=False).energy is None
    assert small.predict(bulk("Al")).energy is not None


def test_models_without_a_head_tell_none():
    assert predictor(make_model(members=1)).predict(CRYSTALS["rocksalt"]).energy is None


def test_results_and_notebooks_tell_them(small: Predictor):
    prediction = small.predict(CRYSTALS["rocksalt"])
    row = RelaxationResult.of(prediction).columns()
    assert (row["energy_relaxed"], row["energy_relaxed_bound"]) == (prediction.energy.energy, prediction.energy.bound)
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
    assert abs(energy.energy - pbe) < energy.bound + 0.01
    assert energy.potential == "Nequix-OAM-1"
