"""From a network's scales to errors that mean what they say: expected errors, and bounds that hold nine times in ten.

The expected error is a power law, with a ceiling, of the error features that a prediction carries, fitted on
validation crystals; the bound is that expectation times a factor that conformal prediction sets (Papadopoulos et al.,
Neural Networks 24, 842 (2011): normalised nonconformity scores). Bounds are one-sided: errors cannot be negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from deeprelax_ase.uncertainty.worsening import Steps, WorseningModel

#: Share of errors that lie within the bounds.
COVERAGE = 0.9

#: Fewer crystals of a kind share the factor of all.
_FEWEST = 30

#: Features below this say no more than "as good as nothing"; it keeps logarithms finite.
_FLOOR = 1e-5

#: Å or relative: the law tells no smaller errors apart.
_LEAST = 1e-3

#: Å or relative; smaller errors are zeros, of sites that symmetry fixes, but for rounding.
_ZERO = 1e-5

#: More atoms than this in the primitive cell make a large crystal.
LARGE = 15

#: How many kinds of crystals have bounds of their own.
_KINDS = 4


@dataclass(frozen=True, eq=False)
class ErrorFeatures:
    """What of a prediction tells how far off it may be, for G crystals; arrays or tensors (G,).

    Attributes:
        displacement_scale: Å, predicted Laplace scale, mean over atoms and members, less where symmetry fixes sites.
        volume_scale, shape_scale: predicted scales of the strain, mean over members.
        displacement_spread: Å, root mean square scatter of the members' displacements.
        strain_spread: the same of their strains.
        last_displacement: Å, root mean square displacement in the last recycle.
        last_strain: Frobenius norm of the strain in the last recycle.
        atoms: in the primitive cell.
    """

    displacement_scale: Any
    volume_scale: Any
    shape_scale: Any
    displacement_spread: Any
    strain_spread: Any
    last_displacement: Any
    last_strain: Any
    atoms: Any

    def logarithms(self) -> np.ndarray:
        """(G, 8) natural logarithms, in the order of the fields."""
        columns = [getattr(self, f.name) for f in fields(self)]
        arrays = [np.asarray(c.cpu() if hasattr(c, "cpu") else c, dtype=float) for c in columns]  # no import of torch
        return np.log(np.maximum(np.stack(arrays, axis=1), _FLOOR))


def error_groups(features: ErrorFeatures, oxides: np.ndarray) -> np.ndarray:
    """(G,) 0 for small crystals without oxygen, 1 with it, as ``oxides`` (G,) says; 2 and 3 for large ones likewise."""
    atoms = features.atoms.cpu() if hasattr(features.atoms, "cpu") else features.atoms
    return np.asarray(oxides).astype(int) + 2 * (np.asarray(atoms) > LARGE)


@dataclass(frozen=True)
class ErrorModel:
    """Expected error ``p / (1 + p / ceiling)`` with ``p = exp(intercept) * prod(feature ** exponent)``, and its bound.

    Attributes:
        intercept: see above.
        exponents: one for each field of :class:`ErrorFeatures`.
        ceiling: that no expected error exceeds: a crystal that goes wrong altogether still has atoms everywhere.
        factors: bounds over expected errors, at :data:`COVERAGE`, for each of the :func:`kinds`.
    """

    intercept: float
    exponents: tuple[float, ...]
    ceiling: float
    factors: tuple[float, ...]

    def expected(self, features: ErrorFeatures) -> np.ndarray:
        """(G,) expected errors."""
        log_power = self.intercept + features.logarithms() @ np.array(self.exponents)
        log_ceiling = math.log(self.ceiling)
        return np.exp(log_ceiling - np.logaddexp(0.0, log_ceiling - log_power))

    def bound(self, features: ErrorFeatures, oxides: np.ndarray) -> np.ndarray:
        """(G,) bounds on the errors; ``oxides`` (G,) bool marks crystals with oxygen."""
        return self.expected(features) * np.array(self.factors)[error_groups(features, oxides)]


@dataclass(frozen=True)
class Calibration:
    """How a model's error features are to be read, for one number of recycles.

    Attributes:
        recycles: of the predictions that it was fitted to.
        coordinates: of the coordinates' error in Å, the mean absolute Cartesian component.
        volume: of the relative error of the volume.
        ood_limits: largest value of each feature that counts as known: that of all but one in a hundred validation
            crystals.
        worsening: of the odds that a prediction ends further off than the crystal began; None where they are not known.
    """

    recycles: int
    coordinates: ErrorModel
    volume: ErrorModel
    ood_limits: tuple[float, ...]
    worsening: WorseningModel | None = None

    def read(self, features: ErrorFeatures, oxides: np.ndarray, steps: Steps | None = None) -> list[CalibratedError]:
        """The calibrated errors of each crystal.

        Args:
            features: of G predictions.
            oxides: (G,) bool, which crystals hold oxygen.
            steps: of the predictions; without them there are no odds.
        """
        parts = (self.coordinates, self.volume)
        columns = [values for part in parts for values in (part.expected(features), part.bound(features, oxides))]
        beyond = features.logarithms() > np.log(np.maximum(self.ood_limits, _FLOOR))
        ood = np.any(beyond, axis=1).tolist()
        odds = [None] * len(ood)
        if self.worsening is not None and steps is not None:
            odds = self.worsening.odds(features.logarithms(), steps).tolist()
        return [
            CalibratedError(
                coordinates=float(c),
                coordinates_bound=float(cb),
                volume=float(v),
                volume_bound=float(vb),
                ood=o,
                odds_worse=p,
            )
            for c, cb, v, vb, o, p in zip(*columns, ood, odds, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for model cards."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`to_dict`."""

        def model(part: Mapping[str, Any]) -> ErrorModel:
            exponents = tuple(part["exponents"])
            if len(exponents) != len(fields(ErrorFeatures)):
                raise ValueError(f"{len(exponents)} exponents for {len(fields(ErrorFeatures))} error features")
            if len(part["factors"]) != _KINDS:
                raise ValueError(f"{len(part['factors'])} factors for {_KINDS} kinds of crystals")
            return ErrorModel(part["intercept"], exponents, part["ceiling"], tuple(part["factors"]))

        ood_limits = tuple(values["ood_limits"])
        if len(ood_limits) != len(fields(ErrorFeatures)):
            raise ValueError(f"{len(ood_limits)} limits for {len(fields(ErrorFeatures))} error features")
        worsening = values.get("worsening")
        return cls(
            values["recycles"],
            model(values["coordinates"]),
            model(values["volume"]),
            ood_limits,
            None if worsening is None else WorseningModel.from_dict(worsening),
        )


@dataclass(frozen=True)
class CalibratedError:
    """How far a prediction is off, as far as that can be known beforehand.

    Attributes:
        coordinates: Å, expected mean absolute Cartesian component of the atoms' error, cell and origin apart.
        coordinates_bound: Å, that error stays below it in nine of ten crystals like those of the validation split.
        volume: expected relative error of the cell volume; None where the cell is kept, which is not off.
        volume_bound: that error stays below it likewise: the volume lies within ``V (1 ± volume_bound)``; None too.
        ood: out of distribution: the prediction is unlike those that the calibration knows. Do not rely on any of these
            numbers.
        novelty: odds that the crystal is unlike those that the model has learnt from, told by the network's own
            features, over the largest that ordinary validation crystals keep; beyond 1 it is unlike them, and ``ood``
            is true. None where the model has no such statistics.
        odds_worse: calibrated probability that the prediction ends further from the minimum than the unrelaxed crystal;
            None where the model has no such statistics.
    """

    coordinates: float
    coordinates_bound: float
    volume: float | None
    volume_bound: float | None
    ood: bool
    novelty: float | None = None
    odds_worse: float | None = None

    def with_novelty(self, novelty: float) -> CalibratedError:
        """The same of a crystal of that ``novelty``: beyond 1 it is out of distribution."""
        return replace(self, novelty=novelty, ood=self.ood or not novelty <= 1.0)  # also where it is not a number

    def with_cell_kept(self) -> CalibratedError:
        """The same of a crystal whose cell is kept: its volume cannot be off."""
        return replace(self, volume=None, volume_bound=None)


def fit_error_model(features: ErrorFeatures, errors: np.ndarray, oxides: np.ndarray) -> ErrorModel:
    """The power law under which the ``errors`` (n,), taken as exponentially distributed, are most likely.

    To the law, errors below a thousandth count as that: where symmetry fixes all sites they are zero, and to reach zero
    it would give up telling the others apart. ``oxides`` (n,) marks the crystals with oxygen. Needs scipy and crepes.

    Raises:
        ValueError: all errors are zero.
    """
    from scipy.optimize import minimize

    if not (errors > _ZERO).any():
        raise ValueError("all errors are zero: there is nothing to calibrate")
    logarithms, all_errors, errors = features.logarithms(), errors, np.maximum(errors, _LEAST)
    centre = logarithms.mean(axis=0)
    design = np.column_stack([np.ones(len(errors)), logarithms - centre])
    decay = np.array([0.0, *[1e-3] * logarithms.shape[1]])  # features that say the same share the exponent

    def negative_likelihood(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Its value and gradient at (intercept, exponents, logarithm of the ceiling)."""
        linear, log_ceiling = parameters[:-1], parameters[-1]
        logs = design @ linear
        log_expected = log_ceiling - np.logaddexp(0.0, log_ceiling - logs)
        saturation = np.exp(log_expected - log_ceiling)
        ratio = errors * np.exp(np.minimum(-log_expected, 100.0))  # a line search may try anything
        slack = 1 - ratio
        value = (log_expected + ratio).mean() + 0.5 * (decay * linear**2).sum()
        gradient = design.T @ (slack * (1 - saturation)) / len(errors) + decay * linear
        return float(value), np.append(gradient, (slack * saturation).mean())

    start = np.zeros(design.shape[1] + 1)
    start[0], start[-1] = math.log(errors.mean()), math.log(10 * errors.mean())
    solution = minimize(negative_likelihood, start, jac=True, method="BFGS").x
    exponents = solution[1:-1]
    model = ErrorModel(
        intercept=float(solution[0] - exponents @ centre),
        exponents=tuple(exponents.tolist()),
        ceiling=math.exp(solution[-1]),
        factors=(1.0,) * _KINDS,
    )
    expected, kind = model.expected(features), error_groups(features, oxides)
    return replace(model, factors=tuple(_conformal_factor(all_errors, expected, kind == k) for k in range(_KINDS)))


def _conformal_factor(errors: np.ndarray, expected: np.ndarray, chosen: np.ndarray) -> float:
    """What the ``expected`` errors are to be multiplied with to cover those of the ``chosen`` crystals."""
    from crepes import ConformalRegressor

    if chosen.sum() < _FEWEST:
        chosen = np.ones_like(chosen)
    conformal = ConformalRegressor().fit(residuals=errors[chosen], sigmas=expected[chosen])
    return float(conformal.predict_int(np.zeros(1), sigmas=np.ones(1), confidence=COVERAGE)[0, 1])


def fit_calibration(
    features: ErrorFeatures,
    coordinate_errors: np.ndarray,
    volume_errors: np.ndarray,
    oxides: np.ndarray,
    *,
    recycles: int,
) -> Calibration:
    """Calibrate on validation crystals.

    Args:
        features: of n predictions.
        coordinate_errors: (n,) Å.
        volume_errors: (n,) relative.
        oxides: (n,) bool, which crystals hold oxygen.
        recycles: that the predictions took.
    """
    return Calibration(
        recycles=recycles,
        coordinates=fit_error_model(features, coordinate_errors, oxides),
        volume=fit_error_model(features, volume_errors, oxides),
        ood_limits=tuple(np.exp(np.quantile(features.logarithms(), 0.99, axis=0)).tolist()),
    )
