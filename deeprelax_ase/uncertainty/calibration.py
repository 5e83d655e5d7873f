"""From a network's scales to errors that mean what they say: expected errors, and bounds that hold nine times in ten.

The expected error is a power law, with a ceiling, of the error features that a prediction carries, fitted on
validation crystals; the bound is that expectation times a factor that conformal prediction sets (Papadopoulos et al.,
Neural Networks 24, 842 (2011): normalised nonconformity scores), for each kind of crystal and each size of the expected
error its own (Vovk, Lindsay, Nouretdinov & Gammerman, Mondrian confidence machine (2003)). Bounds are one-sided: errors
cannot be negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deeprelax_ase.uncertainty.kinds import BULK, KINDS
from deeprelax_ase.uncertainty.worsening import WorseningModel, with_margin

#: Share of errors that lie within the bounds.
COVERAGE = 0.9

#: Features below this say no more than "as good as nothing"; it keeps logarithms finite.
_FLOOR = 1e-5


@dataclass(frozen=True, eq=False)
class ErrorFeatures:
    """Features that indicate the errors of predictions for G crystals; arrays or tensors (G,).

    Attributes:
        displacement_scale: Å, predicted Laplace scale, mean over atoms and members.
        volume_scale, shape_scale: predicted scales of the strain, mean over members.
        displacement_spread: Å, root mean square scatter of the members' displacements.
        strain_spread: the same of their strains.
        last_displacement: Å, root mean square displacement in the last recycle.
        last_strain: Frobenius norm of the strain in the last recycle.
        first_displacement_scale, first_volume_scale: the scales in the first recycle.
        kind: number of one of the :data:`~deeprelax_ase.uncertainty.kinds.KINDS`.
    """

    displacement_scale: Any
    volume_scale: Any
    shape_scale: Any
    displacement_spread: Any
    strain_spread: Any
    last_displacement: Any
    last_strain: Any
    first_displacement_scale: Any
    first_volume_scale: Any
    kind: Any

    def logarithms(self) -> np.ndarray:
        """(G, 9) natural logarithms of all but the kind, in the order of the fields."""
        here = self.on_cpu()
        arrays = [np.asarray(getattr(here, name), dtype=float) for name in FEATURES]
        return np.log(np.maximum(np.stack(arrays, axis=1), _FLOOR))

    def kinds(self) -> np.ndarray:
        """(G,) int, numbers of their kinds; bulk where it is no number, as nothing is predicted."""
        return np.nan_to_num(np.asarray(self.on_cpu().kind, dtype=float), nan=BULK).astype(int)

    def on_cpu(self) -> ErrorFeatures:
        """The same as arrays, of tensors by one copy of all."""
        if not hasattr(self.kind, "cpu"):
            return self
        import torch  # is there, as these are its tensors

        columns = torch.stack([getattr(self, f.name).double() for f in fields(self)])
        return ErrorFeatures(*columns.cpu().numpy())

    def take(self, chosen: np.ndarray) -> ErrorFeatures:
        """Take the features of the ``chosen`` crystals, by index or mask."""
        return ErrorFeatures(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


#: Features that the law reads: all but the kind.
FEATURES = tuple(f.name for f in fields(ErrorFeatures) if f.name != "kind")


@dataclass(frozen=True)
class ErrorModel:
    """Expected error ``p / (1 + p / ceiling)`` with ``p = exp(intercept) * prod(feature ** exponent)``, and its bound.

    Attributes:
        intercept: see above.
        exponents: one for each of the :data:`FEATURES`.
        ceiling: that no expected error exceeds: a crystal that goes wrong altogether still has atoms everywhere.
        sizes: expected errors, ascending, that the factors are those of, for each of the kinds.
        factors: bounds over expected errors, at :data:`COVERAGE`; between two sizes by a power law of the expected
            error, beyond them those of the nearest.
    """

    intercept: float
    exponents: tuple[float, ...]
    ceiling: float
    sizes: tuple[tuple[float, ...], ...]
    factors: tuple[tuple[float, ...], ...]

    def expected(self, features: ErrorFeatures) -> np.ndarray:
        """(G,) expected errors."""
        log_power = self.intercept + features.logarithms() @ np.array(self.exponents)
        log_ceiling = math.log(self.ceiling)
        return np.exp(log_ceiling - np.logaddexp(0.0, log_ceiling - log_power))

    def bound(self, features: ErrorFeatures) -> np.ndarray:
        """(G,) bounds on the errors."""
        expected, kinds = self.expected(features), features.kinds()
        bounds = np.empty_like(expected)
        for kind in np.unique(kinds):
            own = kinds == kind
            bounds[own] = bounds_at(expected[own], self.sizes[kind], self.factors[kind])
        return bounds


def bounds_at(expected: np.ndarray, sizes: ArrayLike, factors: ArrayLike) -> np.ndarray:
    """(n,) bounds of ``expected`` errors (n,) of one kind, see :class:`ErrorModel`."""
    return expected * np.exp(np.interp(np.log(expected), np.log(sizes), np.log(factors)))


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model's errors by their features, for one number of recycles.

    Attributes:
        recycles: of the predictions that it was fitted to.
        coordinates: of the coordinates' error in Å, the mean absolute Cartesian component.
        volume: of the relative error of the volume.
        ood_limits: largest value of each of the :data:`FEATURES` that counts as known: that of all but one in a hundred
            validation crystals.
        worsening: of the odds that a prediction ends further off than the crystal began; None where they are not known.
    """

    recycles: int
    coordinates: ErrorModel
    volume: ErrorModel
    ood_limits: tuple[float, ...]
    worsening: WorseningModel | None = None

    def read(
        self,
        features: ErrorFeatures,
        displacements: np.ndarray | None = None,
        *,
        cell_kept: Sequence[bool] | None = None,
        novelty: Sequence[float] | None = None,
        doubted: Sequence[bool] | None = None,
    ) -> list[CalibratedError]:
        """The calibrated errors of each crystal.

        Args:
            features: of G predictions.
            displacements: (G,) Å, by which atoms are moved; without them there are no odds.
            cell_kept: (G,) whose cells are kept, so that volumes are not off; none by default.
            novelty: (G,) of the crystals: beyond 1, or no number, they are out of distribution.
            doubted: (G,) which are out of distribution for another reason.
        """
        features, parts = features.on_cpu(), (self.coordinates, self.volume)
        columns = [values for part in parts for values in (part.expected(features), part.bound(features))]
        ood = np.any(features.logarithms() > np.log(np.maximum(self.ood_limits, _FLOOR)), axis=1)
        if novelty is not None:
            ood = ood | ~(np.asarray(novelty) <= 1.0)
        if doubted is not None:
            ood = ood | np.asarray(doubted)
        none: list[float | None] = [None] * len(ood)
        odds, margins = none, [1.0] * len(ood)
        if self.worsening is not None and displacements is not None:
            kinds = features.kinds()
            odds = self.worsening.odds(features.logarithms(), kinds, displacements).tolist()
            margins = np.array(self.worsening.margins)[kinds].tolist()
        kept = [False] * len(ood) if cell_kept is None else cell_kept
        told = zip(
            *(column.tolist() for column in columns), ood.tolist(), novelty or none, odds, margins, kept, strict=True
        )
        return [
            CalibratedError(c, cb, None if k else v, None if k else vb, o, n, p, m)
            for c, cb, v, vb, o, n, p, m, k in told
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for model cards, which hold it by its recycles."""
        return {name: value for name, value in asdict(self).items() if name != "recycles"}

    @classmethod
    def of_card(cls, by_recycles: Mapping[str, Any], recycles: int) -> Calibration | None:
        """Read the calibration for so many ``recycles`` from that part of a model card; None where it has none."""
        values = by_recycles.get(str(recycles))
        if values is None:
            return None

        def model(part: Mapping[str, Any]) -> ErrorModel:
            exponents = tuple(part["exponents"])
            if len(exponents) != len(FEATURES):
                raise ValueError(f"{len(exponents)} exponents for {len(FEATURES)} error features")
            sizes, factors = (tuple(tuple(of_kind) for of_kind in part[name]) for name in ("sizes", "factors"))
            if not len(sizes) == len(factors) == len(KINDS):
                raise ValueError(f"{len(sizes)} and {len(factors)} rows of factors for {len(KINDS)} kinds of crystals")
            if [len(of_kind) for of_kind in sizes] != [len(of_kind) for of_kind in factors] or not all(sizes):
                raise ValueError("factors and the sizes that they are those of differ in number, or there are none")
            return ErrorModel(part["intercept"], exponents, part["ceiling"], sizes, factors)

        ood_limits = tuple(values["ood_limits"])
        if len(ood_limits) != len(FEATURES):
            raise ValueError(f"{len(ood_limits)} limits for {len(FEATURES)} error features")
        worsening = values.get("worsening")
        return cls(
            recycles,
            model(values["coordinates"]),
            model(values["volume"]),
            ood_limits,
            None if worsening is None else WorseningModel.from_dict(worsening),
        )


@dataclass(frozen=True)
class CalibratedError:
    """Expected error of a prediction, with bounds, as far as it can be known beforehand.

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
        odds_margin: factor, at least 1, by which these odds, p / (1 - p), count more where they are held against a
            limit: more crystals of its kind ended further off than small odds promise.
    """

    coordinates: float
    coordinates_bound: float
    volume: float | None
    volume_bound: float | None
    ood: bool
    novelty: float | None = None
    odds_worse: float | None = None
    odds_margin: float = 1.0

    @property
    def odds_judged(self) -> float | None:
        """:attr:`odds_worse` as it is held against a limit: with :attr:`odds_margin`."""
        return None if self.odds_worse is None else with_margin(self.odds_worse, self.odds_margin)

    def with_cell_kept(self) -> CalibratedError:
        """The same of a crystal whose cell is kept: its volume cannot be off."""
        return replace(self, volume=None, volume_bound=None)
