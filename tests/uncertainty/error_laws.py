"""A law of errors, and crystals whose errors keep it."""

from __future__ import annotations

import numpy as np

from deeprelax_ase.uncertainty.calibration import FEATURES, ErrorFeatures, ErrorModel
from deeprelax_ase.uncertainty.kinds import BULK, KINDS

ONES = ((1.0,),) * len(KINDS)
LAW = ErrorModel(
    intercept=-0.5, exponents=(0.8, 0.0, -0.3, 0.4, 0.0, 0.2, 0.0, 0.0, 0.0), ceiling=0.03, sizes=ONES, factors=ONES
)


def make_features(rng: np.random.Generator, size: int, kinds: int = 1) -> ErrorFeatures:
    """Log-normal about 0.02, each independent of the others; of the first so many kinds of crystals in turn."""
    return ErrorFeatures(*np.exp(np.log(0.02) + rng.normal(size=(len(FEATURES), size))), kind=np.arange(size) % kinds)


def make_errors(rng: np.random.Generator, features: ErrorFeatures, law: ErrorModel = LAW) -> np.ndarray:
    return rng.exponential(law.expected(features))


def one(value: float, **others: float) -> ErrorFeatures:
    """The features of one bulk crystal, all of that ``value`` but for the ``others``."""
    values = {name: np.array([others.get(name, value)]) for name in FEATURES}
    return ErrorFeatures(**values, kind=np.array([BULK]))
