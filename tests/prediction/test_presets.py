"""What a prediction may cost: presets of recycles and members, the same in every door."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deeprelax_ase.models.card import one_shot_options
from deeprelax_ase.models.model import Model
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.options import RelaxOptions
from tests.crystals import BY_DISTANCES, CRYSTALS, END_TO_END
from tests.ensembles import ensemble_of


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("default",), (None, None)),
        (("fast",), (1, 1)),
        (("default", 3, 2), (3, 2)),
        (("fast", 3), (3, 1)),
        (("fast", None, 2), (1, 2)),
    ],
)
def test_what_is_given_goes_before_the_preset(asked: tuple, found: tuple):
    assert one_shot_options(*asked) == found


def test_predictor(shipped):
    model = ensemble_of(shipped(END_TO_END))
    model = Model(replace(model.card, recycles=2), model.networks)
    usual, fast = Predictor(model, device="cpu"), Predictor(model, device="cpu", one_shot="fast")
    assert (usual.recycles, len(usual.model.networks)) == (2, 2)
    assert (fast.recycles, len(fast.model.networks)) == (1, 1)
    assert Predictor(model, device="cpu", one_shot="fast", recycles=3).recycles == 3


def test_a_network_that_predicts_once_is_fast_with_one_member(shipped):
    fast = Predictor(shipped(BY_DISTANCES), device="cpu", one_shot="fast")
    assert (fast.recycles, len(fast.model.networks)) == (1, 1)


def test_the_fast_preset_of_the_default_model_knows_its_errors():
    prediction = Predictor(device="cpu", one_shot="fast").predict(CRYSTALS["rocksalt"])
    assert prediction.error is not None
    assert prediction.error.odds_worse is not None


def test_screening():
    predictor = RelaxOptions(device="cpu", one_shot="fast").predictor()
    assert (predictor.recycles, len(predictor.model.networks)) == (1, 1)


def test_optimizer():
    atoms = CRYSTALS["rocksalt"].to_atoms()
    optimizer = DeepRelaxOptimizer(atoms, logfile=None, device="cpu", one_shot="fast", finish=None)
    assert optimizer.predictor.recycles == 1
    assert DeepRelaxOptimizer(atoms, logfile=None, device="cpu", finish=None).predictor.recycles > 1


@pytest.mark.parametrize(
    "door",
    [
        lambda: Predictor(device="cpu", one_shot="slow"),
        lambda: RelaxOptions(one_shot="slow"),
        lambda: DeepRelaxOptimizer(CRYSTALS["rocksalt"].to_atoms(), logfile=None, one_shot="slow"),
    ],
    ids=["Predictor", "RelaxOptions", "DeepRelaxOptimizer"],
)
def test_there_is_no_other(door):
    with pytest.raises(ValueError, match=r"one_shot='slow' must be one of \('default', 'fast'\)"):
        door()
