"""Expected errors and bounds, fitted to crystals whose errors are known."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from deeprelax_ase.evaluation.metrics import rank_correlation
from deeprelax_ase.uncertainty.calibration import COVERAGE, FEATURES, ErrorFeatures
from deeprelax_ase.uncertainty.calibration_fit import fit_calibration, fit_error_model
from deeprelax_ase.uncertainty.kinds import BULK, KINDS, LAYER, OXIDE, SLAB
from tests.uncertainty.error_laws import LAW, make_errors, make_features

pytest.importorskip("crepes")


def test_fit_recovers_the_law(rng):
    features = make_features(rng, 20_000)
    law = replace(LAW, intercept=1.8, ceiling=0.3)  # errors below a thousandth are told no more apart
    fitted = fit_error_model(features, make_errors(rng, features, law))
    assert fitted.exponents == pytest.approx(law.exponents, abs=0.05)
    assert fitted.ceiling == pytest.approx(law.ceiling, rel=0.15)
    np.testing.assert_allclose(fitted.expected(features), law.expected(features), rtol=0.2)
    # 9 of 10 exponential errors lie below it; there are no other kinds to tell theirs by, so that they have that of all
    assert fitted.bound(features) == pytest.approx(np.log(10) * fitted.expected(features), rel=0.1)
    assert len(set(fitted.factors)) == len(set(fitted.sizes)) == 1


def test_features_that_say_the_same_share_the_exponent(rng):
    single = np.exp(rng.normal(size=5000))
    features = ErrorFeatures(single, single, *[np.ones(5000)] * 7, kind=np.zeros(5000))
    fitted = fit_error_model(features, rng.exponential(0.01 * single))
    assert fitted.exponents[:2] == pytest.approx((0.5, 0.5), abs=0.05)
    assert fitted.exponents[2:] == pytest.approx((0.0,) * 7, abs=1e-6)


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
    assert np.mean(fitted.factors[OXIDE]) > 1.5 * np.mean(fitted.factors[BULK])
    assert np.mean(fitted.factors[SLAB]) > 1.5 * np.mean(fitted.factors[LAYER])


def test_bounds_hold_for_small_and_for_large_expected_errors(rng):
    """Though of one kind the large ones are off by more than expected, and the small ones by less."""

    def errors(features: ErrorFeatures) -> np.ndarray:
        expected = LAW.expected(features)
        skewed = expected * 3 * (expected / 0.03) ** 0.5
        return rng.exponential(np.where(features.kinds() == SLAB, skewed, expected))

    known, fresh = make_features(rng, 30_000, len(KINDS)), make_features(rng, 30_000, len(KINDS))
    fitted = fit_error_model(known, errors(known))
    expected, covered = fitted.expected(fresh), errors(fresh) <= fitted.bound(fresh)
    for kind in (BULK, SLAB):
        for part in np.array_split(np.argsort(np.where(fresh.kinds() == kind, expected, np.inf))[:6000], 3):
            assert covered[part].mean() == pytest.approx(COVERAGE, abs=0.04)
    assert fitted.factors[SLAB][-1] > 2 * fitted.factors[SLAB][0]


def test_a_larger_expected_error_has_no_smaller_bound(rng):
    """Also where the validation crystals say the opposite."""
    known = make_features(rng, 4000)
    expected = LAW.expected(known)
    fitted = fit_error_model(known, np.where(expected < np.median(expected), 3 * expected, 0.2 * expected))
    order = np.argsort(fitted.expected(known))
    assert (np.diff(fitted.bound(known)[order]) >= -1e-12).all()


@pytest.mark.parametrize(("size", "factors"), [(20, 1), (150, 1), (250, 2), (1000, 4)])
def test_few_crystals_have_few_factors(rng, size: int, factors: int):
    features = make_features(rng, size)
    fitted = fit_error_model(features, make_errors(rng, features))
    assert {len(of_kind) for of_kind in (*fitted.factors, *fitted.sizes)} == {factors}


def test_crystals_of_small_and_of_large_errors_are_ranked_alike(rng):
    """A few errors of an ångström do not decide what tells those of a hundredth apart."""
    features = make_features(rng, 4000)
    small = 0.02 * (features.displacement_scale / 0.02) * np.exp(0.2 * rng.normal(size=4000))
    wild = rng.random(4000) < 0.02
    fitted = fit_error_model(features, np.where(wild, 1.0, small))
    assert rank_correlation(fitted.expected(features)[~wild], small[~wild]) > 0.97


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


def test_nothing_but_zeros_cannot_be_fitted(rng):
    with pytest.raises(ValueError, match="all errors are zero"):
        fit_error_model(make_features(rng, 10), np.zeros(10))


def test_few_crystals_that_err_have_finite_bounds(rng):
    """Of twelve, three of which err, as where symmetry fixes most sites of a small data set."""
    features, errors = make_features(rng, 12), np.zeros(12)
    errors[:3] = 0.01
    assert np.isfinite(fit_error_model(features, errors).factors).all()


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
