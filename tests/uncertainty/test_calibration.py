from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deeprelax_ase.evaluation.metrics import rank_correlation
from deeprelax_ase.uncertainty.calibration import (
    COVERAGE,
    FEATURES,
    CalibratedError,
    Calibration,
    ErrorFeatures,
    ErrorModel,
    fit_calibration,
    fit_error_model,
)
from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, KINDS, LAYER, OXIDE, SLAB, kinds_of
from deeprelax_ase.uncertainty.worsening import WorseningModel

LAW = ErrorModel(
    intercept=-0.5, exponents=(0.8, 0.0, -0.3, 0.4, 0.0, 0.2, 0.0, 0.0, 0.0), ceiling=0.03, factors=(1.0,) * len(KINDS)
)
needs_crepes = pytest.mark.usefixtures("_crepes")


@pytest.fixture(scope="module")
def _crepes() -> None:
    pytest.importorskip("crepes")


def make_features(rng: np.random.Generator, size: int, kinds: int = 1) -> ErrorFeatures:
    """Log-normal about 0.02, each independent of the others; of the first so many kinds of crystals in turn."""
    return ErrorFeatures(*np.exp(np.log(0.02) + rng.normal(size=(len(FEATURES), size))), kind=np.arange(size) % kinds)


def make_errors(rng: np.random.Generator, features: ErrorFeatures, law: ErrorModel = LAW) -> np.ndarray:
    return rng.exponential(law.expected(features))


def one(value: float, **others: float) -> ErrorFeatures:
    """The features of one bulk crystal, all of that ``value`` but for the ``others``."""
    values = {name: np.array([others.get(name, value)]) for name in FEATURES}
    return ErrorFeatures(**values, kind=np.array([BULK]))


@pytest.fixture
def calibration() -> Calibration:
    coordinates = replace(LAW, factors=(2.0, 3.0, 4.0, 5.0, 6.0))
    volume = replace(LAW, intercept=-1.0, factors=(2.5, 3.5, 4.5, 5.5, 6.5))
    return Calibration(3, coordinates, volume, ood_limits=(0.1,) * len(FEATURES))


# Kinds


@pytest.mark.parametrize(
    ("oxide", "layered", "kept", "kind"),
    [
        (False, False, False, BULK),
        (True, False, False, OXIDE),
        (False, True, False, LAYER),
        (True, True, False, LAYER),
        (False, True, True, SLAB),
        (True, True, True, SLAB),
        (False, False, True, DEFECT),
        (True, False, True, DEFECT),
    ],
)
def test_kinds(oxide: bool, layered: bool, kept: bool, kind: int):
    told = [np.array([value]) for value in (oxide, layered, kept)]
    assert kinds_of(*told).tolist() == kinds_of(*map(torch.from_numpy, told)).tolist() == [kind]


# Fitting


@needs_crepes
def test_fit_recovers_the_law(rng):
    features = make_features(rng, 20_000)
    law = replace(LAW, intercept=1.8, ceiling=0.3)  # errors below a thousandth are told no more apart
    fitted = fit_error_model(features, make_errors(rng, features, law))
    assert fitted.exponents == pytest.approx(law.exponents, abs=0.05)
    assert fitted.ceiling == pytest.approx(law.ceiling, rel=0.15)
    np.testing.assert_allclose(fitted.expected(features), law.expected(features), rtol=0.2)
    # 9 of 10 exponential errors lie below it; there are no other kinds to tell theirs by, so that they have that of all
    assert fitted.factors == pytest.approx([np.log(10)] * len(KINDS), rel=0.04)
    assert len(set(fitted.factors)) == 1


@needs_crepes
def test_features_that_say_the_same_share_the_exponent(rng):
    single = np.exp(rng.normal(size=5000))
    features = ErrorFeatures(single, single, *[np.ones(5000)] * 7, kind=np.zeros(5000))
    fitted = fit_error_model(features, rng.exponential(0.01 * single))
    assert fitted.exponents[:2] == pytest.approx((0.5, 0.5), abs=0.05)
    assert fitted.exponents[2:] == pytest.approx((0.0,) * 7, abs=1e-6)


@needs_crepes
@pytest.mark.parametrize("heavy", [False, True])
def test_bounds_hold_nine_times_in_ten_on_fresh_crystals(rng, heavy: bool):
    """Whatever the true distribution, the factor does not lean on the exponential one; and in each kind apart."""

    def errors(features: ErrorFeatures) -> np.ndarray:
        expected = np.where(features.kinds() % 2, 2, 1) * LAW.expected(features)
        return expected * np.exp(1.5 * rng.normal(size=len(expected))) if heavy else rng.exponential(expected)

    known, fresh = make_features(rng, 15_000, len(KINDS)), make_features(rng, 15_000, len(KINDS))
    fitted = fit_error_model(known, errors(known))
    covered = errors(fresh) <= fitted.bound(fresh)
    for kind in range(len(KINDS)):
        assert covered[fresh.kinds() == kind].mean() == pytest.approx(COVERAGE, abs=0.025)
    assert fitted.factors[OXIDE] > 1.5 * fitted.factors[BULK]
    assert fitted.factors[SLAB] > 1.5 * fitted.factors[LAYER]


@needs_crepes
def test_crystals_of_small_and_of_large_errors_are_ranked_alike(rng):
    """A few errors of an ångström do not decide what tells those of a hundredth apart."""
    features = make_features(rng, 4000)
    small = 0.02 * (features.displacement_scale / 0.02) * np.exp(0.2 * rng.normal(size=4000))
    wild = rng.random(4000) < 0.02
    fitted = fit_error_model(features, np.where(wild, 1.0, small))
    assert rank_correlation(fitted.expected(features)[~wild], small[~wild]) > 0.97


@needs_crepes
def test_the_law_reaches_a_thousandth_where_the_features_vanish(rng):
    """Sites that symmetry fixes: neither error nor features. What is said of the others does not change much."""
    free = make_features(rng, 2000)
    errors = make_errors(rng, free)
    names = [f.name for f in fields(ErrorFeatures)]
    fixed = {name: np.full(200, 5e-4 if name.endswith(("volume_scale", "shape_scale")) else 0.0) for name in names}
    features = ErrorFeatures(**{name: np.concatenate([getattr(free, name), fixed[name]]) for name in names})
    rounding = 1e-8 * rng.random(200)
    fitted = fit_error_model(features, np.concatenate([errors, rounding]))
    alone = fit_error_model(free, errors)
    change = np.log(fitted.expected(free) / alone.expected(free))
    assert np.median(np.abs(change)) < 0.2
    assert fitted.expected(features)[-200:] == pytest.approx(np.full(200, 1e-3), rel=0.5)


@needs_crepes
def test_nothing_but_zeros_cannot_be_fitted(rng):
    with pytest.raises(ValueError, match="all errors are zero"):
        fit_error_model(make_features(rng, 10), np.zeros(10))


@needs_crepes
def test_fit_of_both_errors(rng):
    features = make_features(rng, 2000, len(KINDS))
    coordinates, volume = make_errors(rng, features), 0.1 * make_errors(rng, features)
    fitted = fit_calibration(features, coordinates, volume, recycles=2)
    assert fitted.recycles == 2
    assert fitted.coordinates == fit_error_model(features, coordinates)
    relaxing = features.kinds() <= LAYER
    assert fitted.volume == fit_error_model(features.take(relaxing), volume[relaxing])
    ood = np.mean([error.ood for error in fitted.read(features)])
    assert 0.01 < ood <= 0.09  # one in a hundred by each of nine features
    assert fitted.ood_limits == pytest.approx(
        tuple(np.quantile(getattr(features, name), 0.99) for name in FEATURES), rel=0.02
    )


# Reading


def test_power_law_below_the_ceiling():
    law = replace(LAW, ceiling=1e9)
    expected = np.exp(-0.5) * 0.01**0.8 * 0.02**-0.3 * 0.01**0.6
    np.testing.assert_allclose(law.expected(one(0.01, shape_scale=0.02)), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, 1e3, 1e300])
def test_ceiling_holds(value: float):
    (expected,) = LAW.expected(one(value))
    assert 0.5 * LAW.ceiling < expected <= LAW.ceiling


@pytest.mark.parametrize("steep", [1.0, 1e3])
def test_features_of_zero_are_read(steep: float):
    law = replace(LAW, exponents=tuple(steep * e for e in LAW.exponents))
    (expected,) = law.expected(one(0.0))
    assert 0 <= expected < 1e-3
    assert np.isfinite(one(0.0).logarithms()).all()


def test_tensors_and_arrays_read_alike(rng, calibration: Calibration, monkeypatch):
    """Tensors come from the device in one copy: each waits for all that the device still has to do."""
    copies, copy = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda values: copies.append(values) or copy(values))
    features = make_features(rng, 5)
    tensors = ErrorFeatures(*(torch.from_numpy(getattr(features, f.name)) for f in fields(ErrorFeatures)))
    assert calibration.read(tensors) == calibration.read(features)
    assert len(copies) == 1
    assert features.logarithms().shape == (5, len(FEATURES))


def test_reading(calibration: Calibration):
    count = len(KINDS)
    read = calibration.read(ErrorFeatures(*np.full((len(FEATURES), count), 0.05), kind=np.arange(count)))
    (coordinates,), (volume,) = (model.expected(one(0.05)) for model in (calibration.coordinates, calibration.volume))
    for kind, found in enumerate(read):
        bounds = (2.0 + kind) * coordinates, (2.5 + kind) * volume
        assert found == CalibratedError(coordinates, bounds[0], volume, bounds[1], ood=False)
    plain = read[0]
    assert {type(value) for value in vars(plain).values()} <= {float, bool, type(None)}


@pytest.mark.parametrize("name", FEATURES)
def test_one_feature_out_of_distribution_is_enough(calibration: Calibration, name: str):
    assert [error.ood for error in calibration.read(one(0.05, **{name: 0.11}))] == [True]
    assert [error.ood for error in calibration.read(one(0.05, **{name: 0.09}))] == [False]


# Cards


def on_card(calibration: Calibration) -> dict:
    return {"1": {}, str(calibration.recycles): calibration.to_dict()}


def test_round_trip(calibration: Calibration):
    assert Calibration.of_card(on_card(calibration), 3) == calibration
    assert Calibration.of_card(on_card(calibration), 2) is None
    assert Calibration.of_card({}, 3) is None


@pytest.mark.parametrize("part", ["coordinates", "volume"])
@pytest.mark.parametrize("count", [0, 8, 10])
def test_another_number_of_exponents_is_refused(calibration: Calibration, part: str, count: int):
    values = calibration.to_dict()
    values[part]["exponents"] = [0.1] * count
    with pytest.raises(ValueError, match=f"{count} exponents for 9 error features"):
        Calibration.of_card({"3": values}, 3)


@pytest.mark.parametrize("part", ["coordinates", "volume"])
def test_another_number_of_factors_is_refused(calibration: Calibration, part: str):
    values = calibration.to_dict()
    values[part]["factors"] = [1.0, 2.0]
    with pytest.raises(ValueError, match="2 factors for 5 kinds of crystals"):
        Calibration.of_card({"3": values}, 3)


def test_another_number_of_ood_limits_is_refused(calibration: Calibration):
    with pytest.raises(ValueError, match="3 limits for 9 error features"):
        Calibration.of_card({"3": calibration.to_dict() | {"ood_limits": [1.0, 2.0, 3.0]}}, 3)


@pytest.mark.parametrize("name", ["coordinates", "volume", "ood_limits"])
def test_a_missing_part_is_named(calibration: Calibration, name: str):
    values = calibration.to_dict()
    del values[name]
    with pytest.raises(KeyError, match=name):
        Calibration.of_card({"3": values}, 3)


def test_reading_needs_neither_torch_nor_crepes():
    code = "import sys, deeprelax_ase.uncertainty.calibration; print({'torch', 'crepes', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The odds that a prediction ends further off


@pytest.fixture
def with_odds(calibration: Calibration) -> Calibration:
    none = (0.0,) * len(FEATURES)
    law = WorseningModel((-3.0, -3.0, -3.0, -1.0, -3.0), (-1.0, -1.0), (none, none), (1.0, 1.0, 1.0, 3.0, 1.0))
    return replace(calibration, worsening=law)


def test_odds_are_read_with_the_errors(with_odds: Calibration):
    steps = np.array([0.0, 0.01, 0.1, 0.02])
    features = ErrorFeatures(*np.full((len(FEATURES), 4), 0.05), kind=np.array([BULK, BULK, BULK, SLAB]))
    errors = with_odds.read(features, steps)
    still, short, long, slab = (error.odds_worse for error in errors)
    assert still == 0
    assert short == pytest.approx(1 / (1 + np.exp(3) * 0.01))
    assert long == pytest.approx(1 / (1 + np.exp(3) * 0.1))
    assert slab == pytest.approx(1 / (1 + np.exp(1) * 0.02))
    assert [error.odds_margin for error in errors] == [1, 1, 1, 3]


def test_without_steps_there_are_no_odds(with_odds: Calibration, calibration: Calibration):
    assert with_odds.read(one(0.05))[0].odds_worse is None
    assert calibration.read(one(0.05), np.array([0.1]))[0].odds_worse is None


def test_round_trip_with_odds(with_odds: Calibration):
    assert Calibration.of_card(on_card(with_odds), 3) == with_odds
