"""Fits the expected errors, and their bounds, to crystals whose errors are known. Needs scipy and crepes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from deeprelax_ase.uncertainty.calibration import COVERAGE, Calibration, ErrorFeatures, ErrorModel, bounds_at
from deeprelax_ase.uncertainty.kinds import CELL_KEPT, KINDS

#: Fewer crystals of a kind share the factors of all.
_FEWEST = 30

#: Factors that a kind has at most, each for expected errors of another size, of at least so many crystals.
_SIZES, _FEWEST_OF_SIZE = 4, 100

#: Å or relative: the law tells no smaller errors apart.
_LEAST = 1e-3

#: Weight of the squares of the exponents, beside the mean squares of the logarithms.
_DECAY = 1e-3

#: Å or relative; smaller errors are zeros, of sites that symmetry fixes, but for rounding.
_ZERO = 1e-5


def fit_error_model(features: ErrorFeatures, errors: np.ndarray) -> ErrorModel:
    """The power law that tells n errors best: its exponents in proportion by least squares of the logarithms.

    So every crystal counts alike, whether its error is large or small, and the law ranks them best. Its level, its
    slope and its ceiling are then those under which the ``errors`` (n,), taken as exponentially distributed, are most
    likely, so that the expected errors are means. Errors below a thousandth count as that: where symmetry fixes all
    sites they are zero, and to reach zero the law would give up telling the others apart; of bounds they say nothing,
    which hold for nine of ten of the others.

    Raises:
        ValueError: all errors are zero.
    """
    errs = errors > _ZERO
    if not errs.any():
        raise ValueError("all errors are zero: there is nothing to calibrate")
    if errs.sum() < _FEWEST:  # then zeros count too: of fewer than ten nothing holds nine times in ten
        errs[:] = True
    logarithms, errors = features.logarithms(), np.maximum(errors, _LEAST)
    centre, logs = logarithms.mean(axis=0), np.log(errors)
    inputs = logarithms - centre
    weight = inputs.T @ inputs + _DECAY * len(inputs) * np.eye(inputs.shape[1])  # those alike share
    direction = np.linalg.solve(weight, inputs.T @ (logs - logs.mean()))
    level, slope, log_ceiling = _fit_level(inputs @ direction, errors)
    exponents = slope * direction
    law = ErrorModel(float(level - exponents @ centre), tuple(exponents.tolist()), math.exp(log_ceiling), (), ())
    expected, kinds = law.expected(features), features.kinds()
    chosen = (own if (own := errs & (kinds == kind)).sum() >= _FEWEST else errs for kind in range(len(KINDS)))
    sizes, factors = zip(*(_fit_factors(errors[own], expected[own]) for own in chosen), strict=True)
    return replace(law, sizes=sizes, factors=factors)


def _fit_level(logs: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """Intercept, slope, and logarithm of the ceiling, of the law of ``logs`` (n,) that fits n ``errors`` best."""
    from scipy.optimize import minimize

    design = np.column_stack([np.ones(len(logs)), logs])

    def negative_likelihood(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        linear, log_ceiling = parameters[:-1], parameters[-1]
        log_expected = log_ceiling - np.logaddexp(0.0, log_ceiling - design @ linear)
        saturation = np.exp(log_expected - log_ceiling)
        ratio = errors * np.exp(np.minimum(-log_expected, 100.0))  # a line search may try anything
        slack = 1 - ratio
        gradient = design.T @ (slack * (1 - saturation)) / len(errors)
        return float((log_expected + ratio).mean()), np.append(gradient, (slack * saturation).mean())

    start = np.array([math.log(errors.mean()), 1.0, math.log(10 * errors.mean())])
    level, slope, log_ceiling = minimize(negative_likelihood, start, jac=True, method="BFGS").x
    return float(level), float(slope), float(log_ceiling)


def _fit_factors(errors: np.ndarray, expected: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sizes, and factors by which ``expected`` errors (n,) are multiplied there to cover the ``errors``.

    A larger expected error never has a smaller bound. Once interpolated, factors cover the share of all again.
    """
    count = min(max(len(errors) // _FEWEST_OF_SIZE, 1), _SIZES)
    parts = np.array_split(np.argsort(expected, kind="stable"), count)
    sizes = np.array([np.median(expected[part]) for part in parts])
    factors = np.array([_conformal_factor(errors[part], expected[part]) for part in parts])
    factors = np.maximum.accumulate(sizes * factors) / sizes
    factors *= _conformal_factor(errors, bounds_at(expected, sizes, factors))
    return tuple(sizes.tolist()), tuple(factors.tolist())


def _conformal_factor(errors: np.ndarray, expected: np.ndarray) -> float:
    """Fit the factor by which the ``expected`` errors are multiplied to cover the ``errors``."""
    from crepes import ConformalRegressor

    conformal = ConformalRegressor().fit(residuals=errors, sigmas=expected)
    return float(conformal.predict_int(np.zeros(1), sigmas=np.ones(1), confidence=COVERAGE)[0, 1])


def fit_calibration(
    features: ErrorFeatures,
    coordinate_errors: np.ndarray,
    volume_errors: np.ndarray,
    *,
    recycles: int,
) -> Calibration:
    """Calibrate on validation crystals.

    Args:
        features: of n predictions.
        coordinate_errors: (n,) Å.
        volume_errors: (n,) relative; those of cells that are kept say nothing and are left out.
        recycles: that the predictions took.

    Raises:
        ValueError: all errors are zero, or all cells are kept.
    """
    relaxing = np.isin(features.kinds(), CELL_KEPT, invert=True)
    return Calibration(
        recycles=recycles,
        coordinates=fit_error_model(features, coordinate_errors),
        volume=fit_error_model(features.take(relaxing), volume_errors[relaxing]),
        ood_limits=tuple(np.exp(np.quantile(features.logarithms(), 0.99, axis=0)).tolist()),
    )
