"""A predictor that asks some members of an ensemble only; models of each architecture as they ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.models.loading import save_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import FEATURES, Calibration, ErrorModel
from deeprelax_ase.uncertainty.kinds import KINDS
from tests.crystals import CRYSTALS, DISTORTED, END_TO_END, assert_same
from tests.ensembles import ensemble_of

COMPUTED = ("name", "members", "parameters", "config", "architecture", "sha256")


def calibrated(model: Model) -> Model:
    """The model with a calibration, whatever its card says."""
    size, recycles = len(FEATURES), model.card.recycles
    factors = ((2.0,),) * len(KINDS)
    law = ErrorModel(intercept=0.0, exponents=(0.5,) * size, ceiling=0.2, sizes=factors, factors=factors)
    calibration = Calibration(recycles, law, law, ood_limits=(1.0,) * size).to_dict()
    return Model(replace(model.card, calibration={str(recycles): calibration}), model.networks)


@pytest.fixture
def alone(model: Model, tmp_path: Path) -> Callable[[int], Path]:
    """``alone(2)``: the card of a model that holds just the first two members, without a calibration."""

    def save(members: int) -> Path:
        words = {key: value for key, value in vars(model.card).items() if key not in COMPUTED}
        words |= {"weights": "", "calibration": {}, "novelty": {}, "energy": {}}
        save_model(list(model.networks)[:members], tmp_path, "alone", **words)
        return tmp_path / "alone.json"

    return save


@pytest.mark.parametrize("members", [1])
def test_it_is_as_a_model_of_the_first_members(model: Model, make, alone, members: int):
    part = make(model=calibrated(model), members=members, dtype="float64")
    whole = make(dtype="float64", leave_within_error=False)
    expected = make(model=alone(members), dtype="float64")
    assert len(part.model.networks) == len(expected.model.networks) == members < len(whole.model.networks)
    for name in DISTORTED[:1]:
        found = part.predict(CRYSTALS[name])
        assert_same(expected.predict(CRYSTALS[name]), found, atol=1e-12)
        others = whole.predict(CRYSTALS[name])
        assert np.abs(others.relaxed.cell - found.relaxed.cell).max() > 1e-5
        assert others.uncertainty.epistemic != pytest.approx(found.uncertainty.epistemic, rel=1e-3)


def test_one_member_has_nobody_to_disagree_with(make):
    predictor = make(members=1)
    for prediction in predictor.predict_many(CRYSTALS.values()):
        assert np.isfinite(prediction.relaxed.positions).all()
        assert prediction.uncertainty.epistemic == 0
        assert prediction.uncertainty.total == pytest.approx(prediction.uncertainty.aleatoric)
        assert prediction.uncertainty.total > 0
        if prediction.features is not None:
            assert prediction.features.displacement_spread == prediction.features.strain_spread == 0


def test_all_members_are_the_model(model: Model, make):
    everybody, usual = make(members=len(model.networks)), make()
    assert everybody.calibration == usual.calibration
    crystal = CRYSTALS[DISTORTED[0]]
    assert_same(usual.predict(crystal), everybody.predict(crystal), atol=0)


@pytest.mark.parametrize("members", [0, -1, 6, 100])
def test_there_are_no_others(model: Model, make, members: int):
    size = len(model.networks)
    with pytest.raises(ValueError, match=f"members={members} must be between 1 and {size}, the size of the ensemble"):
        make(members=members)


def test_errors_are_calibrated_for_the_whole_ensemble(shipped):
    model = calibrated(ensemble_of(shipped(END_TO_END)))
    size = len(model.networks)
    for members in (None, size, size - 1):
        predictor = Predictor(model, device="cpu", members=members)
        prediction = predictor.predict(CRYSTALS["triclinic"])
        told = members in (None, size)
        assert (predictor.calibration is not None) == told
        assert (prediction.error is not None) == told
        assert ("deeprelax_error" in prediction.info) == told
        assert prediction.features is not None


def test_the_given_model_keeps_its_members(model: Model, make):
    before = len(model.networks)
    states = {key: tensor.clone() for key, tensor in model.networks.state_dict().items()}
    make(members=1, dtype="float64").predict(CRYSTALS["hcp"])
    assert len(model.networks) == before
    for key, tensor in model.networks.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, states[key])
