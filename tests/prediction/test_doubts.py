"""Crystals that no model knows, by their geometry: each says what is amiss, and is handed out as uncertain."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atom
from ase.build import bulk, fcc111

from deeprelax_ase import Predictor
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.judgement import judge
from tests.geometry.structures import CHAINS, CRYSTALS, MOLECULAR, SMALL_BOXES, with_vacuum


@pytest.fixture(scope="module")
def predictor():
    return Predictor(device="cpu")


def beside(distance):
    atoms = bulk("Si", cubic=True)
    atoms.append(Atom("Si", atoms.positions[0] + np.array([0.48, 0.6, 0.64]) * distance))
    return atoms


DOUBTFUL = {
    "dry ice": (MOLECULAR["dry ice"], "molecules"),
    **{name: (MOLECULAR[name], "molecules") for name in ("CF4 in 3 Å", "Cl2 in 3.4 Å", "C6H6 in 2.8 Å", "CO in 2.8 Å")},
    **{name: (make, "chains") for name, make in CHAINS.items()},
    "a slab in a small cell": (lambda: with_vacuum(fcc111("Al", (1, 1, 6)), 3.5), "thick layers that are far apart"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_each_says_what_is_amiss(predictor, name):
    make, reason = DOUBTFUL[name]
    prediction = predictor.predict(make())
    assert reason in prediction.doubt
    assert prediction.judgement.status == "uncertain"
    assert reason in prediction.judgement.reason


@pytest.mark.parametrize("distance", [0.52, 0.7, 0.9])
def test_an_interstitial_too_near_is_uncertain_or_refused(distance):
    """As the network may bring the two apart, or not."""
    (made,) = Predictor(device="cpu").predict_many([beside(distance)])
    judgement = judge(made)
    assert judgement.status in ("uncertain", "refused")
    assert f"toms 0 and 8 are {distance:.2f} Å apart from the start" in judgement.reason
    if judgement.uncertain:
        assert made.error.ood


def test_ordinary_crystals_give_no_doubt(predictor):
    made = predictor.predict_many([CRYSTALS[name]() for name in ("copper", "graphite", "molybdenite")])
    assert [prediction.doubt for prediction in made] == [""] * 3


def test_molecules_in_small_boxes_are_refused(predictor):
    made = list(predictor.predict_many([make() for make in SMALL_BOXES.values()]))
    assert all(isinstance(error, DeepRelaxError) for error in made)


@pytest.mark.parametrize("relax_cell", [None, False, True])
def test_a_slab_is_known_in_its_cell_alone(predictor, relax_cell):
    """Labels of slabs keep cells: where they move, neither bounds nor odds hold."""
    slab = fcc111("Cu", (1, 1, 4), vacuum=8)
    slab.rattle(0.05, seed=1)
    prediction = predictor.predict(slab, relax_cell=relax_cell)
    assert ("slab whose cell is to move" in prediction.judgement.reason) is (relax_cell is True)
    assert prediction.error.ood is (relax_cell is True)
