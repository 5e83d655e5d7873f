"""The odds that a prediction ends further off: fitted to what happened, read for new predictions, held to."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pytest

from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, KINDS, SLAB
from deeprelax_ase.uncertainty.worsening import (
    ACCEPTED_WORSE,
    LONG,
    MAX_ODDS_WORSE,
    NOISE,
    WorseningModel,
    fit_worsening,
    with_margin,
)

SIZE = 12_000


class Known(NamedTuple):
    """Arguments of the fit."""

    logarithms: np.ndarray
    kinds: np.ndarray
    displacements: np.ndarray
    worse: np.ndarray
    systems: np.ndarray


def made(seed: int) -> Known:
    """Many predictions: the shorter steps end further off more often. Slabs have a law of their own."""
    rng = np.random.default_rng(seed)
    logarithms = rng.normal(size=(SIZE, 8))
    kinds = rng.choice([BULK, SLAB, DEFECT], SIZE, p=[0.6, 0.2, 0.2])
    steps = np.exp(rng.normal(-3, 1, SIZE))
    slab = kinds == SLAB
    logit = -6 - np.log(np.where(slab, np.minimum(steps, LONG), steps)) + np.where(slab, 0.5, 0.0)
    logit += np.where(slab, 2 * logarithms[:, 1], 2 * logarithms[:, 0]) + (kinds == DEFECT)
    return Known(logarithms, kinds, steps, rng.random(SIZE) < 1 / (1 + np.exp(-logit)), np.arange(SIZE))


@pytest.fixture
def known() -> Known:
    return made(7)


def within_limit(model: WorseningModel, known: Known) -> np.ndarray:
    """Which of the predictions are within the default limit."""
    odds = model.odds(*known[:3])
    margins = np.array(model.margins)[known.kinds]
    return np.array([with_margin(p, m) for p, m in zip(odds, margins, strict=True)]) <= MAX_ODDS_WORSE


def test_fit_finds_the_odds(known: Known):
    model = fit_worsening(*known)
    found = model.odds(*known[:3])
    assert model.steps == pytest.approx((-1, -1), abs=0.25)
    assert model.exponents[0][:2] == pytest.approx((2, 0), abs=0.2)
    assert model.exponents[1][:2] == pytest.approx((0, 2), abs=0.4)  # of fewer crystals
    assert model.levels[DEFECT] - model.levels[BULK] == pytest.approx(1, abs=0.3)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        these = (found >= low) & (found < high)
        assert known.worse[these].mean() == pytest.approx(found[these].mean(), abs=0.06)


def test_longer_steps_never_raise_the_odds(known: Known):
    """Also where the crystals say the opposite."""
    model = fit_worsening(*known._replace(worse=known.displacements > np.median(known.displacements)))
    moves = known.displacements > NOISE
    longer = model.odds(known.logarithms, known.kinds, 2 * known.displacements)
    assert (longer <= model.odds(*known[:3]))[moves].all()


def test_what_does_not_move_does_not_end_further_off(known: Known):
    model = fit_worsening(*known)
    for length in (0.0, 4e-4):  # nothing, and sites that symmetry fixes in a file of four decimals
        assert not model.odds(known.logarithms, known.kinds, np.full(SIZE, length)).any()


@pytest.mark.parametrize("outcome", [True, False])
def test_odds_need_crystals_of_both_outcomes(known: Known, outcome: bool):
    with pytest.raises(ValueError, match="nothing to calibrate the odds by"):
        fit_worsening(*known._replace(worse=np.full(SIZE, outcome)))


def test_a_card_holds_it(known: Known):
    model = fit_worsening(*known)
    assert WorseningModel.from_dict(asdict(model)) == model


def test_kinds_that_are_not_there_have_the_law_of_all(known: Known):
    """Slabs too, though few of any kind make no margin."""
    bulk = Known(*(values[known.kinds == BULK] for values in known))
    model, short = fit_worsening(*bulk), np.minimum(bulk.displacements, LONG)
    odds = model.odds(bulk.logarithms, bulk.kinds, short)
    for kind in range(len(KINDS)):
        assert model.odds(bulk.logarithms, np.full_like(bulk.kinds, kind), short) == pytest.approx(odds)
        assert model.margins[kind] == model.margins[BULK]
    few = fit_worsening(*(values[:60] for values in bulk))
    assert few.margins == (1.0,) * len(KINDS)


# What the odds promise


def test_margins_raise_odds():
    assert with_margin(0.05, 1.0) == 0.05
    assert with_margin(0.05, 2.0) == pytest.approx(2 * 0.05 / 0.95 / (1 + 2 * 0.05 / 0.95))
    assert with_margin(0.0, 9.0) == 0


def test_odds_that_hold_need_no_margin(known: Known):
    """Of further crystals within the limit at most one in twenty ends further off."""
    model, further = fit_worsening(*known), made(8)
    accepted = within_limit(model, further)
    assert model.margins == (1.0,) * len(KINDS)
    for kind in (BULK, SLAB, DEFECT):
        assert 0 < further.worse[accepted & (further.kinds == kind)].mean() <= ACCEPTED_WORSE


def test_a_kind_whose_odds_do_not_hold_has_a_margin(known: Known):
    """One in twelve defects ends further off, whatever their step and features."""
    defects = known.kinds == DEFECT
    rng = np.random.default_rng(3)
    surprising = known._replace(worse=np.where(defects, rng.random(SIZE) < 1 / 12, known.worse))
    model = fit_worsening(*surprising)
    small = model.odds(*known[:3]) <= MAX_ODDS_WORSE
    assert surprising.worse[small & defects].mean() > 1.2 * ACCEPTED_WORSE
    assert model.margins[DEFECT] > 1.5
    assert (model.margins[BULK], model.margins[SLAB]) == (1, 1)
    assert (small & defects).sum() > 3 * (within_limit(model, surprising) & defects).sum()


def test_margins_of_few_crystals_hardly_hang_on_how_systems_are_numbered(known: Known):
    """By the numbers systems are divided into those that odds are fitted to and held against."""
    rng, number = np.random.default_rng(4), 2000
    few = Known(*(values[:number] for values in known))
    few = few._replace(worse=np.where(few.kinds == DEFECT, rng.random(number) < 1 / 15, few.worse))
    systems = np.arange(number) // 3
    margins = [
        fit_worsening(*few._replace(systems=rng.permutation(systems.max() + 1)[systems])).margins[DEFECT]
        for _ in range(4)
    ]
    assert min(margins) > 1
    assert np.std(np.log(margins)) < 0.2  # 0.5 with one division


def test_crystals_of_the_same_elements_count_as_one(known: Known):
    """Whether 4 % is below 5 % is known from 2,000 crystals, and not from 50 that are there 40 times each."""
    rng = np.random.default_rng(5)
    each = known._replace(
        kinds=np.full(2000, BULK),
        logarithms=np.zeros((2000, 8)),
        displacements=np.full(2000, 0.1),
        worse=rng.permutation(np.arange(2000) < 80),
        systems=np.arange(2000),
    )
    assert fit_worsening(*each).margins[BULK] == 1
    fewer = each._replace(worse=np.repeat(rng.permutation(np.arange(50) < 2), 40), systems=np.arange(2000) // 40)
    assert fit_worsening(*fewer).margins[BULK] > 1


def test_crystals_of_one_chemical_system_are_held_out_one_by_one(known: Known):
    defects = known.kinds == DEFECT
    surprised = known._replace(worse=known.worse | (defects & (np.arange(SIZE) % 9 == 0)))
    alone = fit_worsening(*surprised._replace(systems=np.full(SIZE, 3)))
    assert alone.margins == fit_worsening(*surprised).margins
    assert alone.margins[DEFECT] > 1
