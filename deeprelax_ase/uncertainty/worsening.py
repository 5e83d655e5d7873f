"""The odds that a prediction ends further from the minimum than the crystal began.

A step that is short beside its own scales, or that the last recycle is still changing, leads away from the minimum
about as often as towards it. Logistic regression (Cox, J. R. Stat. Soc. B 20, 215 (1958)) on validation crystals tells
how often: the odds are a power law of step and error features, whose signs are held where physics knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Å. An error that grows by less is rounding, of the network at sites that symmetry fixes, or of files with four
#: decimals; and a step that is shorter is none. Of volumes the same number, relative.
ZERO = 1e-4

#: Å. Steps up to this are those of atoms that symmetry fixes, in files with four decimals: they can do no harm.
NOISE = 1e-3

#: Weight of the squares of all exponents, of inputs scaled alike: those that say the same share theirs.
_DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class Steps:
    """Lengths of the steps by which predictions move G crystals; arrays (G,).

    Attributes:
        displacement: Å, mean absolute Cartesian component of what atoms move by, cell and drift apart.
        cell_kept: bool, whether only atoms move.
    """

    displacement: np.ndarray
    cell_kept: np.ndarray


@dataclass(frozen=True)
class WorseningModel:
    """Odds ``p / (1 - p) = exp(intercept) * step ** exponent * prod(feature ** exponent) * cell_kept factor``.

    Attributes:
        intercept: see above.
        step: exponent of the displacement, at most 0: the further a prediction goes, the rarer it goes the wrong way.
        exponents: one for each of the :data:`~deeprelax_ase.uncertainty.calibration.FEATURES`.
        cell_kept: logarithm of the factor where only atoms move.
    """

    intercept: float
    step: float
    exponents: tuple[float, ...]
    cell_kept: float

    def odds(self, logarithms: np.ndarray, steps: Steps) -> np.ndarray:
        """(G,) probabilities; 0 where nothing moves by more than :data:`NOISE`.

        Args:
            logarithms: (G, 9) of the error features.
            steps: of the predictions.
        """
        weights = np.array([self.step, *self.exponents, self.cell_kept])
        linear = self.intercept + _inputs(logarithms, steps) @ weights
        probability = 1 / (1 + np.exp(-np.clip(linear, -50, 50)))
        return np.where(steps.displacement > NOISE, probability, 0.0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WorseningModel:
        """Read the model from the values in a model card."""
        return cls(values["intercept"], values["step"], tuple(values["exponents"]), values["cell_kept"])


def fit_worsening(logarithms: np.ndarray, steps: Steps, worse: np.ndarray) -> WorseningModel:
    """The model under which it is most likely that just these of n predictions end further off.

    Args:
        logarithms: (n, 9) of their error features.
        steps: of the predictions; those that are none are left out.
        worse: (n,) bool, which of them end further from the minimum than the crystals began.

    Raises:
        ValueError: of those that move, all end further off, or none.
    """
    from scipy.optimize import minimize

    moves = steps.displacement > ZERO
    steps, worse = Steps(steps.displacement[moves], steps.cell_kept[moves]), np.asarray(worse)[moves]
    if worse.all() or not worse.any():
        raise ValueError("all predictions end nearer, or all further off: there is nothing to calibrate the odds by")
    inputs = _inputs(logarithms[moves], steps)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    scale[scale < 1e-6] = 1.0  # of a feature that never varies, as the spread of one network, nothing is learnt
    design = np.column_stack([np.ones(len(inputs)), (inputs - centre) / scale])
    decay = np.array([0.0, *[_DECAY] * inputs.shape[1]])

    def negative_likelihood(linear: np.ndarray) -> tuple[float, np.ndarray]:
        logit = design @ linear
        value = (np.logaddexp(0.0, logit) - worse * logit).mean() + 0.5 * (decay * linear**2).sum()
        probability = 1 / (1 + np.exp(-np.clip(logit, -50, 50)))
        return float(value), design.T @ (probability - worse) / len(worse) + decay * linear

    bounds = [(None, None), (None, 0.0), *[(None, None)] * (inputs.shape[1] - 1)]
    found = minimize(negative_likelihood, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / scale
    step, *exponents, cell_kept = weights.tolist()
    return WorseningModel(float(found[0] - weights @ centre), step, tuple(exponents), cell_kept)


def _inputs(logarithms: np.ndarray, steps: Steps) -> np.ndarray:
    """(G, 11) logarithm of the step, of the features, and whether the cell is kept."""
    step = np.log(np.maximum(steps.displacement, ZERO))
    return np.column_stack([step, logarithms, steps.cell_kept.astype(float)])
