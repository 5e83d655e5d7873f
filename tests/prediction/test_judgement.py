"""Whether a prediction is to be trusted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from ase.build import bulk

from deeprelax_ase.errors import ModelError, UncertainPredictionError
from deeprelax_ase.prediction.judgement import TrustLimits, announce, doubt, refusal
from deeprelax_ase.prediction.status import JumpDecision
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import StandInPredictor

ERROR = CalibratedError(coordinates=0.31, coordinates_bound=0.6, volume=0.08, volume_bound=0.2, ood=False)


@pytest.fixture
def prediction():
    return StandInPredictor(error=ERROR).predict(bulk("Cu", "fcc", a=3.8, cubic=True))  # its uncertainty is 0.04 Å


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (TrustLimits(), ""),
        (TrustLimits(max_error=0.31), ""),
        (TrustLimits(max_error=0.3), r"its expected error 0.310 Å is above max_error=0.3 Å"),
        (TrustLimits(max_uncertainty=0.04), ""),
        (TrustLimits(max_uncertainty=0.03), r"its uncertainty 0.04 Å is above max_uncertainty=0.03 Å"),
        (TrustLimits(max_error=0.3, max_uncertainty=0.04), r"its expected error 0.310 Å is above max_error=0.3 Å"),
    ],
)
def test_limits(prediction, limits, reason):
    assert doubt(prediction, limits) == reason


def test_numbers_that_are_none_are_above_any_limit(prediction):
    lost = replace(prediction, error=replace(ERROR, coordinates=math.nan))
    assert doubt(lost, TrustLimits(max_error=9.0))
    lost = replace(prediction, uncertainty=replace(prediction.uncertainty, total=math.nan))
    assert doubt(lost, TrustLimits(max_uncertainty=9.0))


def test_crystals_unlike_those_that_the_model_knows(prediction):
    ood = replace(prediction, error=replace(ERROR, ood=True))
    assert doubt(ood, TrustLimits()) == (
        "the crystal is unlike those that the model knows (expected error 0.310 Å, of the volume 8.0 %)"
    )
    kept = replace(prediction, error=replace(ERROR, ood=True).with_cell_kept())
    assert doubt(kept, TrustLimits()).endswith("(expected error 0.310 Å)")
    assert not doubt(ood, TrustLimits(ood=True))
    assert not doubt(replace(prediction, error=None), TrustLimits())


def test_a_solver_that_did_not_come_to_rest(prediction):
    moving = replace(prediction, solver_converged=False)
    assert doubt(moving, TrustLimits()) == "the geometry solver did not come to rest"
    assert not doubt(moving, TrustLimits(unsettled=True))


def test_errors_that_are_not_calibrated_cannot_be_limited(prediction):
    bare = replace(prediction, error=None)
    with pytest.raises(ModelError, match=r"stand-in has no calibrated errors .*max_error=0.1.* leave it out"):
        doubt(bare, TrustLimits(max_error=0.1))
    assert not doubt(bare, TrustLimits(max_uncertainty=0.1))


def test_a_jump_that_no_calculator_checks(prediction):
    ood = replace(prediction, error=replace(ERROR, ood=True))
    assert refusal(prediction, None) is None
    assert refusal(ood, None).outcome == "refused"
    assert refusal(ood, 0.31) is None  # who sets a limit has set all of it
    assert refusal(ood, 0.3).reason == refusal(prediction, 0.3).reason


def test_what_is_said_of_a_refusal():
    decision = JumpDecision("refused", "of something")
    announce(decision, "keep")
    with pytest.warns(UserWarning, match="left as it is: of something. Attach a calculator"):
        announce(decision, "warn")
    with pytest.raises(UncertainPredictionError, match="left as it is: of something"):
        announce(decision, "raise")
