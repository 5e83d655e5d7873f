from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deeprelax_ase.uncertainty.calibration import (
    COVERAGE,
    LARGE,
    CalibratedError,
    Calibration,
    ErrorFeatures,
    ErrorModel,
    error_groups,
    fit_calibration,
    fit_error_model,
)
from deeprelax_ase.uncertainty.worsening import Steps, WorseningModel

KINDS = [f.name for f in fields(ErrorFeatures)]
LAW = ErrorModel(intercept=-0.5, exponents=(0.8, 0.0, -0.3, 0.4, 0.0, 0.2, 0.0, 0.0), ceiling=0.03, factors=(1.0,) * 4)
needs_crepes = pytest.mark.usefixtures("_crepes")


@pytest.fixture(scope="module")
def _crepes() -> None:
    pytest.importorskip("crepes")


def make_signs(rng: np.random.Generator, size: int) -> ErrorFeatures:
    """Log-normal about 0.02, and the atoms about what makes a crystal large; each kind independent of the others."""
    features = ErrorFeatures(*np.exp(np.log(0.02) + rng.normal(size=(len(KINDS), size))))
    return replace(features, atoms=np.exp(np.log(LARGE) + 0.5 * rng.normal(size=size)))


def make_errors(rng: np.random.Generator, features: ErrorFeatures, law: ErrorModel = LAW) -> np.ndarray:
    return rng.exponential(law.expected(features))


def none(size: int = 1) -> np.ndarray:
    """No crystal holds oxygen."""
    return np.zeros(size, dtype=bool)


def one(value: float, **others: float) -> ErrorFeatures:
    """The features of one crystal, all of that ``value`` but for the ``others``."""
    return ErrorFeatures(**{name: np.array([others.get(name, value)]) for name in KINDS})


@pytest.fixture
def calibration() -> Calibration:
    coordinates = replace(LAW, factors=(2.0, 3.0, 4.0, 5.0))
    volume = replace(LAW, intercept=-1.0, factors=(2.5, 3.5, 4.5, 5.5))
    return Calibration(3, coordinates, volume, ood_limits=(0.1,) * 7 + (20.0,))


# Fitting


@needs_crepes
def test_fit_recovers_the_law(rng):
    features = make_signs(rng, 20_000)
    law = replace(LAW, intercept=1.8, ceiling=0.3)  # errors below a thousandth are told no more apart
    fitted = fit_error_model(features, make_errors(rng, features, law), none(20_000))
    assert fitted.exponents == pytest.approx(law.exponents, abs=0.05)
    assert fitted.ceiling == pytest.approx(law.ceiling, rel=0.15)
    np.testing.assert_allclose(fitted.expected(features), law.expected(features), rtol=0.15)
    # 9 of 10 exponential errors lie below it; there are no oxides to tell theirs by, so that they have that of all
    assert fitted.factors == pytest.approx([np.log(10)] * 4, rel=0.04)
    assert fitted.factors[1] == fitted.factors[3]


@needs_crepes
def test_signs_that_say_the_same_share_the_exponent(rng):
    single = np.exp(rng.normal(size=5000))
    features = ErrorFeatures(single, single, *[np.ones(5000)] * 6)
    fitted = fit_error_model(features, rng.exponential(0.01 * single), none(5000))
    assert fitted.exponents[:2] == pytest.approx((0.5, 0.5), abs=0.05)
    assert fitted.exponents[2:] == pytest.approx((0.0,) * 6, abs=1e-6)


@needs_crepes
@pytest.mark.parametrize("heavy", [False, True])
def test_bounds_hold_nine_times_in_ten_on_fresh_crystals(rng, heavy: bool):
    """Whatever the true distribution, the factor does not lean on the exponential one; and in oxides apart."""

    def errors(features: ErrorFeatures) -> np.ndarray:
        expected = np.where(oxides, 2, 1) * LAW.expected(features)
        return expected * np.exp(1.5 * rng.normal(size=len(expected))) if heavy else rng.exponential(expected)

    oxides = rng.random(6000) < 0.5
    known, fresh = make_signs(rng, 6000), make_signs(rng, 6000)
    fitted = fit_error_model(known, errors(known), oxides)
    covered = errors(fresh) <= fitted.bound(fresh, oxides)
    for kind in range(4):
        chosen = error_groups(fresh, oxides) == kind
        assert chosen.sum() > 1000
        assert covered[chosen].mean() == pytest.approx(COVERAGE, abs=0.025)
    assert fitted.factors[1] > 1.5 * fitted.factors[0]
    assert fitted.factors[3] > 1.5 * fitted.factors[2]


@needs_crepes
def test_the_law_reaches_a_thousandth_where_the_signs_vanish(rng):
    """Sites that symmetry fixes: neither error nor features. What is said of the others does not change much."""
    free = make_signs(rng, 2000)
    errors = make_errors(rng, free)
    fixed = {name: np.full(200, 5e-4 if name in ("volume_scale", "shape_scale") else 0.0) for name in KINDS}
    features = ErrorFeatures(**{name: np.concatenate([getattr(free, name), fixed[name]]) for name in KINDS})
    rounding = 1e-8 * rng.random(200)
    fitted = fit_error_model(features, np.concatenate([errors, rounding]), none(2200))
    alone = fit_error_model(free, errors, none(2000))
    change = np.log(fitted.expected(free) / alone.expected(free))
    assert np.median(np.abs(change)) < 0.15
    assert fitted.expected(features)[-200:] == pytest.approx(np.full(200, 1e-3), rel=0.5)


@needs_crepes
def test_nothing_but_zeros_cannot_be_fitted(rng):
    with pytest.raises(ValueError, match="all errors are zero"):
        fit_error_model(make_signs(rng, 10), np.zeros(10), none(10))


@needs_crepes
def test_fit_of_both_errors(rng):
    features = make_signs(rng, 2000)
    coordinates, volume = make_errors(rng, features), 0.1 * make_errors(rng, features)
    oxides = rng.random(2000) < 0.5
    fitted = fit_calibration(features, coordinates, volume, oxides, recycles=2)
    assert fitted.recycles == 2
    assert fitted.coordinates == fit_error_model(features, coordinates, oxides)
    assert fitted.volume == fit_error_model(features, volume, oxides)
    ood = np.mean([error.ood for error in fitted.read(features, oxides)])
    assert 0.01 < ood <= 0.08  # one in a hundred by each of eight features
    assert fitted.ood_limits == pytest.approx(
        tuple(np.quantile(getattr(features, name), 0.99) for name in KINDS), rel=0.02
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
def test_signs_of_zero_are_signs(steep: float):
    law = replace(LAW, exponents=tuple(steep * e for e in LAW.exponents))
    (expected,) = law.expected(one(0.0))
    assert 0 <= expected < 1e-3
    assert np.isfinite(one(0.0).logarithms()).all()


def test_tensors_and_arrays_read_alike(rng, calibration: Calibration):
    features = make_signs(rng, 5)
    tensors = ErrorFeatures(*(torch.from_numpy(getattr(features, name)) for name in KINDS))
    assert calibration.read(tensors, none(5)) == calibration.read(features, none(5))
    assert features.logarithms().shape == (5, 8)


def test_reading(calibration: Calibration):
    features = replace(ErrorFeatures(*np.full((8, 4), 0.05)), atoms=np.array([LARGE, LARGE, LARGE + 1, LARGE + 1]))
    read = calibration.read(features, np.array([False, True, False, True]))
    (coordinates,), (volume,) = (model.expected(one(0.05)) for model in (calibration.coordinates, calibration.volume))
    for kind, found in enumerate(read):  # LAW does not look at the number of atoms
        bounds = (2.0 + kind) * coordinates, (2.5 + kind) * volume
        assert found == CalibratedError(coordinates, bounds[0], volume, bounds[1], ood=False)
    plain = read[0]
    assert {type(value) for value in vars(plain).values()} <= {float, bool, type(None)}


@pytest.mark.parametrize("name", KINDS)
def test_one_unfamiliar_sign_is_enough(calibration: Calibration, name: str):
    edge = 20.0 if name == "atoms" else 0.1
    assert [error.ood for error in calibration.read(one(0.05, **{name: 1.1 * edge}), none())] == [True]
    assert [error.ood for error in calibration.read(one(0.05, **{name: 0.9 * edge}), none())] == [False]


# Cards


def test_round_trip(calibration: Calibration):
    assert Calibration.from_dict(calibration.to_dict()) == calibration


@pytest.mark.parametrize("part", ["coordinates", "volume"])
@pytest.mark.parametrize("count", [0, 7, 9])
def test_another_number_of_exponents_is_refused(calibration: Calibration, part: str, count: int):
    values = calibration.to_dict()
    values[part]["exponents"] = [0.1] * count
    with pytest.raises(ValueError, match=f"{count} exponents for 8 error features"):
        Calibration.from_dict(values)


@pytest.mark.parametrize("part", ["coordinates", "volume"])
def test_another_number_of_factors_is_refused(calibration: Calibration, part: str):
    values = calibration.to_dict()
    values[part]["factors"] = [1.0, 2.0]
    with pytest.raises(ValueError, match="2 factors for 4 kinds of crystals"):
        Calibration.from_dict(values)


def test_another_number_of_familiar_values_is_refused(calibration: Calibration):
    with pytest.raises(ValueError, match="3 limits for 8 error features"):
        Calibration.from_dict(calibration.to_dict() | {"ood_limits": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize("name", ["recycles", "coordinates", "volume", "ood_limits"])
def test_a_missing_part_is_named(calibration: Calibration, name: str):
    values = calibration.to_dict()
    del values[name]
    with pytest.raises(KeyError, match=name):
        Calibration.from_dict(values)


def test_reading_needs_neither_torch_nor_crepes():
    code = "import sys, deeprelax_ase.uncertainty.calibration; print({'torch', 'crepes', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The odds that a prediction ends further off


@pytest.fixture
def with_odds(calibration: Calibration) -> Calibration:
    return replace(calibration, worsening=WorseningModel(-3.0, -1.0, (0.0,) * 8, 2.0))


def test_odds_are_read_with_the_errors(with_odds: Calibration):
    steps = Steps(np.array([0.0, 0.01, 0.1, 0.1]), np.array([False, False, False, True]))
    features = ErrorFeatures(**{name: np.full(4, 0.05) for name in KINDS})
    still, short, long, kept = (error.odds_worse for error in with_odds.read(features, none(4), steps))
    assert still == 0
    assert short == pytest.approx(1 / (1 + np.exp(3) * 0.01))
    assert long == pytest.approx(1 / (1 + np.exp(3) * 0.1))
    assert kept == pytest.approx(1 / (1 + np.exp(1) * 0.1))


def test_without_steps_there_are_no_odds(with_odds: Calibration, calibration: Calibration):
    assert with_odds.read(one(0.05), none())[0].odds_worse is None
    assert calibration.read(one(0.05), none(), Steps(np.array([0.1]), np.array([False])))[0].odds_worse is None


def test_round_trip_with_odds(with_odds: Calibration):
    assert Calibration.from_dict(with_odds.to_dict()) == with_odds
