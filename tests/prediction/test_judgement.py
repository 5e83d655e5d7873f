"""Whether a prediction is to be trusted, and what comes of one that is not."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
from ase.build import bulk

from deeprelax_ase import errors
from deeprelax_ase.errors import ModelError, UncertainPredictionError
from deeprelax_ase.prediction.judgement import (
    Judgement,
    TrustLimits,
    announce,
    check_on_uncertain,
    judge,
    kind_of_reason,
)
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import StandInPredictor

ERROR = CalibratedError(coordinates=0.31, coordinates_bound=0.6, volume=0.08, volume_bound=0.2, ood=False)
ACCEPTED = Judgement("accepted")
UNLIKE = "the crystal is unlike those that the model knows"


@pytest.fixture
def prediction():
    return StandInPredictor(error=ERROR).predict(bulk("Cu", "fcc", a=3.8, cubic=True))  # its uncertainty is 0.04 Å


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (TrustLimits(), ""),
        (TrustLimits(max_error=0.31), ""),
        (TrustLimits(max_error=0.3), r"its expected error 0.310 Å is above max_error=0.3 Å"),
        (TrustLimits(max_volume_error=0.08), ""),
        (TrustLimits(max_volume_error=0.05), r"its expected volume error 8.0% is above max_volume_error=0.05"),
        (TrustLimits(max_uncertainty=0.04), ""),
        (TrustLimits(max_uncertainty=0.03), r"its uncertainty 0.04 Å is above max_uncertainty=0.03 Å"),
        (TrustLimits(max_error=0.3, max_uncertainty=0.04), r"its expected error 0.310 Å is above max_error=0.3 Å"),
    ],
)
def test_limits(prediction, limits, reason):
    assert judge(prediction, limits) == (Judgement("uncertain", reason) if reason else ACCEPTED)
    assert replace(prediction, limits=limits).judgement == judge(prediction, limits)


@pytest.mark.parametrize("name", ["max_error", "max_volume_error", "max_uncertainty", "max_odds_worse"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_limits_that_are_none(name, value):
    with pytest.raises(ValueError, match=rf"{name}=.* must be a"):
        TrustLimits(**{name: value})


def test_odds_in_percent_are_no_probability():
    with pytest.raises(ValueError, match=r"max_odds_worse=10 must be a probability, such as 0.1"):
        TrustLimits(max_odds_worse=10)
    assert TrustLimits(max_odds_worse=math.inf).max_odds_worse == math.inf


def test_numbers_that_are_none_are_above_any_limit(prediction):
    lost = replace(prediction, error=replace(ERROR, coordinates=math.nan, volume=math.nan))
    assert judge(lost, TrustLimits(max_error=9.0)).uncertain
    assert judge(lost, TrustLimits(max_volume_error=9.0)).uncertain
    lost = replace(prediction, uncertainty=replace(prediction.uncertainty, total=math.nan))
    assert judge(lost, TrustLimits(max_uncertainty=9.0)).uncertain


def test_geometry_alone_gives_doubts(prediction):
    doubtful = replace(prediction, doubt="it is made of molecules")
    assert judge(doubtful) == Judgement("uncertain", f"{UNLIKE}: it is made of molecules")
    assert judge(replace(doubtful, error=None, unchanged="it would not move")).uncertain
    assert judge(doubtful, TrustLimits(ood=True)) == ACCEPTED


@pytest.mark.parametrize(
    ("odds", "limits", "reason"),
    [
        (None, TrustLimits(max_odds_worse=0.1), ""),
        (0.05, TrustLimits(max_odds_worse=0.1), ""),
        (0.2, TrustLimits(max_odds_worse=0.1), "the odds are 20% that it ends further from its minimum than it began"),
        (0.2, TrustLimits(max_odds_worse=0.25), ""),
        (0.09, TrustLimits(), ""),
        (0.2, TrustLimits(), "the odds are 20% that it ends further from its minimum than it began"),
        (0.2, TrustLimits(max_odds_worse=None), ""),
        (
            math.nan,
            TrustLimits(max_odds_worse=0.1),
            "the odds are nan% that it ends further from its minimum than it began",
        ),
    ],
)
def test_odds_that_it_ends_further_off(prediction, odds, limits, reason):
    made = replace(prediction, error=replace(ERROR, odds_worse=odds))
    assert judge(made, limits) == (Judgement("uncertain", reason) if reason else ACCEPTED)


def test_odds_of_kinds_of_which_more_end_further_off_count_more(prediction):
    error = replace(ERROR, odds_worse=0.06, odds_margin=2.0)  # as 11 %
    reason = "the odds are 6% that it ends further from its minimum than it began"
    reason += ", judged as 11% by the margin of its kind"
    assert error.odds_judged == pytest.approx(0.12 / 1.06)
    assert judge(replace(prediction, error=error)) == Judgement("uncertain", reason)
    assert judge(replace(prediction, error=error), TrustLimits(max_odds_worse=0.12)) == ACCEPTED
    assert judge(replace(prediction, error=replace(error, odds_margin=1.7))) == ACCEPTED  # as 9.8 %
    alone = judge(replace(prediction, error=replace(error, odds_worse=0.14)))  # beyond the limit by itself
    assert alone == Judgement("uncertain", "the odds are 14% that it ends further from its minimum than it began")


@pytest.mark.parametrize(
    ("reasons", "kind"),
    [
        ([UNLIKE, f"{UNLIKE}, novelty 1.70", f"{UNLIKE}, novelty 18366.14"], UNLIKE),
        (
            [
                "the odds are 6% that it ends further off, judged as 11% by the margin of its kind",
                "the odds are 14% that it ends further off",
            ],
            "the odds are … that it ends further off",
        ),
        (["atomic numbers [264] are no element. Mend", "atomic numbers [-2, 268] are no element. Mend"],
         "atomic numbers … are no element. Mend"),
        (["cell of 3.2e-06 Å³ up to 118. Check", "cell of 1e+17 Å³ up to 118. Check"], "cell of … Å³ up to …. Check"),
        (["M3GNet-MP-2021.2.8 does not know Cl, Na"], "M3GNet-MP-2021.2.8 does not know Cl, Na"),
    ],
)  # fmt: skip
def test_reasons_of_one_kind_count_together(reasons, kind):
    assert {kind_of_reason(reason) for reason in reasons} == {kind}


@pytest.mark.parametrize(("bound", "uncertain"), [(0.0049, False), (0.0051, True)])
def test_what_ends_near_its_minimum_may_have_begun_nearer(prediction, bound, uncertain):
    error = replace(ERROR, coordinates=bound / 2, coordinates_bound=bound, odds_worse=0.4)
    assert judge(replace(prediction, error=error)).uncertain is uncertain


def test_what_stays_where_it_is_ends_no_further_off(prediction):
    made = replace(prediction, error=replace(ERROR, odds_worse=0.9), unchanged="it would go astray")
    assert judge(made) == Judgement("unchanged", "it would go astray")


def test_crystals_unlike_those_that_the_model_knows(prediction):
    ood = replace(prediction, error=replace(ERROR, ood=True))
    assert ood.judgement == judge(ood) == Judgement("uncertain", UNLIKE)
    assert judge(ood, TrustLimits(max_error=9.0, max_volume_error=9.0)).uncertain  # a limit does not lift another
    assert judge(ood, TrustLimits(ood=True)) == ACCEPTED
    novel = replace(prediction, error=replace(ERROR, ood=True, novelty=1.7))
    assert judge(novel).reason == f"{UNLIKE}, novelty 1.70"
    assert judge(replace(prediction, error=None)) == ACCEPTED


def test_a_volume_that_is_kept_is_not_off(prediction):
    kept = replace(prediction, error=ERROR.with_cell_kept())
    assert judge(kept, TrustLimits(max_volume_error=0.0)) == ACCEPTED


def test_crystals_that_are_left_as_they_are(prediction):
    left = replace(prediction, relaxed=prediction.initial, unchanged="it would move by little")
    assert judge(left) == Judgement("unchanged", "it would move by little")
    assert judge(replace(left, error=replace(ERROR, ood=True))) == Judgement("uncertain", UNLIKE)


def test_a_solver_that_did_not_come_to_rest(prediction):
    moving = replace(prediction, solver_converged=False)
    assert judge(moving) == Judgement("uncertain", "the geometry solver did not come to rest")


def test_errors_that_are_not_calibrated_cannot_be_limited(prediction):
    bare = replace(prediction, error=None)
    for name in ("max_error", "max_volume_error"):
        with pytest.raises(ModelError, match=rf"stand-in has no calibrated errors .*{name}.* leave it out"):
            judge(bare, TrustLimits(**{name: 0.1}))
    assert judge(bare, TrustLimits(max_uncertainty=0.1)) == ACCEPTED


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.StructureError("odd"), "refused"),
        (errors.DisorderedStructureError("odd"), "refused"),
        (errors.UnphysicalPredictionError("odd"), "refused"),
        (errors.ConstraintError("odd"), "refused"),
        (errors.StructureFileError("odd"), "failed"),
        (errors.CalculatorError("odd"), "failed"),
        (errors.WorkerError("odd"), "failed"),
    ],
)
def test_crystals_that_nothing_is_predicted_of(error, status):
    assert judge(error) == Judgement(status, "odd")


def test_errors_that_nobody_foresaw_are_told_with_their_kind():
    assert judge(RuntimeError("two\n lines")) == Judgement("failed", "RuntimeError: two lines")


def test_what_is_said_of_an_uncertain_prediction():
    doubt = Judgement("uncertain", "of something")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for word in ("keep", "skip", "finish"):
            announce(doubt, word, of="it", error=ERROR)
        for judgement in (ACCEPTED, Judgement("unchanged", "of something")):
            for word in ("warn", "raise"):
                announce(judgement, word, of="it", error=ERROR)
    said = r"it is uncertain: of something \(expected error 0.310 Å, volume 8.0 %\). Finish it under a calculator"
    with pytest.warns(UserWarning, match=said):
        announce(doubt, "warn", of="it", error=ERROR)
    with pytest.raises(UncertainPredictionError, match=said):
        announce(doubt, "raise", of="it", error=ERROR)
    with pytest.raises(UncertainPredictionError, match=r"it is uncertain: of something\. Finish"):
        announce(doubt, "raise", of="it", error=None)


def test_other_words():
    with pytest.raises(ValueError, match=r"on_uncertain='ignore' must be one of \('keep', 'warn', 'skip', 'finish'"):
        check_on_uncertain("ignore")
