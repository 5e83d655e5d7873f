"""The odds that a prediction ends further off: fitted to what happened, read for new predictions."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from deeprelax_ase.uncertainty.worsening import NOISE, Steps, WorseningModel, fit_worsening

SIZE = 4000


@pytest.fixture
def known():
    """Steps and features of many predictions, and which of them end further off: the shorter steps more often."""
    rng = np.random.default_rng(7)
    logarithms = rng.normal(size=(SIZE, 8))
    steps = Steps(np.exp(rng.normal(-3, 1, SIZE)), rng.random(SIZE) < 0.2)
    logit = -4 - np.log(steps.displacement) + 0.7 * logarithms[:, 0] + 1.5 * steps.cell_kept
    return logarithms, steps, rng.random(SIZE) < 1 / (1 + np.exp(-logit))


def test_fit_finds_the_odds(known):
    logarithms, steps, worse = known
    model = fit_worsening(logarithms, steps, worse)
    found = model.odds(logarithms, steps)
    assert model.step == pytest.approx(-1, abs=0.15)
    assert model.exponents[0] == pytest.approx(0.7, abs=0.15)
    assert model.cell_kept == pytest.approx(1.5, abs=0.3)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        these = (found >= low) & (found < high)
        assert worse[these].mean() == pytest.approx(found[these].mean(), abs=0.06)


def test_longer_steps_never_raise_the_odds(known):
    """Also where the crystals say the opposite."""
    logarithms, steps, _ = known
    model = fit_worsening(logarithms, steps, steps.displacement > np.median(steps.displacement))
    longer = Steps(2 * steps.displacement, steps.cell_kept)
    moves = steps.displacement > NOISE
    assert (model.odds(logarithms, longer) <= model.odds(logarithms, steps))[moves].all()


def test_what_does_not_move_does_not_end_further_off(known):
    logarithms, steps, worse = known
    model = fit_worsening(logarithms, steps, worse)
    for length in (0.0, 4e-4):  # nothing, and sites that symmetry fixes in a file of four decimals
        still = Steps(np.full(SIZE, length), steps.cell_kept)
        assert not model.odds(logarithms, still).any()


@pytest.mark.parametrize("outcome", [True, False])
def test_odds_need_crystals_of_both_outcomes(known, outcome):
    logarithms, steps, _ = known
    with pytest.raises(ValueError, match="nothing to calibrate the odds by"):
        fit_worsening(logarithms, steps, np.full(SIZE, outcome))


def test_a_card_holds_it(known):
    model = fit_worsening(*known)
    assert WorseningModel.from_dict(asdict(model)) == model
