"""The odds that a prediction ends further from the minimum than the crystal began, and how far they are to be trusted.

A step that is short beside its own scales, or that the last recycle is still changing, leads away from the minimum
about as often as towards it. Logistic regression (Cox, J. R. Stat. Soc. B 20, 215 (1958)) on validation crystals tells
how often: the odds are a power law of step and error features, one of slabs and another of all else.

What they promise is held to. Of each kind, the validation crystals whose odds are small tell up to which odds at most
one in twenty ends further off, by one standard error and at least by one in a hundred; where that is below the limit,
odds of that kind count more by a margin, see Geifman & El-Yaniv, Selective classification for deep neural networks,
arXiv:1705.08500 (2017). Crystals of the same elements are often the same crystal in another guise and go wrong
together, so that errors are those of whole chemical systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deeprelax_ase.uncertainty.kinds import KINDS, SLAB

#: Å. An error that grows by less is rounding, of the network at sites that symmetry fixes, or of files with four
#: decimals; and a step that is shorter is none. Of volumes the same number, relative.
ZERO = 1e-4

#: Å. Steps up to this are those of atoms that symmetry fixes, in files with four decimals: they can do no harm.
NOISE = 1e-3

#: Å. Steps of slabs beyond this count as that long: they lead to another minimum, be it the right one or not.
LONG = 0.04

#: Probability. Predictions that are likelier to end further off are not to be accepted, unless somebody asks for it.
MAX_ODDS_WORSE = 0.1

#: Largest share of the accepted ones of each kind that is expected to end further off.
ACCEPTED_WORSE = 0.05

#: Weight of the squares of all exponents, of inputs scaled alike, beside one crystal: those that say the same share
#: theirs.
_DECAY = 15.0

#: Fewer crystals of a kind share the law, or the margin, of all; and so many does the law itself count for in margins.
_FEWEST = 100

#: The standard error of shares counts as at least this: of what a kind is made of, some ends further off more often.
_LEAST_ERROR = 0.01

#: Odds by which margins are set are of crystals that the law was not fitted to: of each of so many folds by the others.
_FOLDS = 5

#: Margins are geometric means over so many divisions into folds: where a kind has few crystals, the share that they
#: hold crosses its limit more than once, and with one division alone chance decides between 1.1 and 2.
_DIVISIONS = 8


@dataclass(frozen=True)
class WorseningModel:
    """Odds ``p / (1 - p) = exp(level) * step ** exponent * prod(feature ** exponent)``.

    Attributes:
        levels: see above, for each of the :data:`~deeprelax_ase.uncertainty.kinds.KINDS`.
        steps: exponents of the displacement, of all but slabs and of slabs, at most 0: the further a prediction goes,
            the rarer it goes the wrong way. Of slabs no more than :data:`LONG` counts.
        exponents: likewise, one for each of the :data:`~deeprelax_ase.uncertainty.calibration.FEATURES`.
        margins: factors, at least 1, of each of the kinds: their odds times that are held against limits.
    """

    levels: tuple[float, ...]
    steps: tuple[float, float]
    exponents: tuple[tuple[float, ...], tuple[float, ...]]
    margins: tuple[float, ...] = (1.0,) * len(KINDS)

    def odds(self, logarithms: np.ndarray, kinds: np.ndarray, displacements: np.ndarray) -> np.ndarray:
        """(G,) probabilities; 0 where nothing moves by more than :data:`NOISE`.

        Args:
            logarithms: (G, 9) of the error features.
            kinds: (G,) numbers of the kinds of the crystals.
            displacements: (G,) Å, mean absolute Cartesian components of what atoms move by, cell and drift apart.
        """
        law = (kinds == SLAB).astype(int)
        linear = np.array(self.levels)[kinds] + np.array(self.steps)[law] * _log_steps(kinds, displacements)
        linear += (logarithms * np.array(self.exponents)[law]).sum(axis=1)
        return np.where(displacements > NOISE, _probability(linear), 0.0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WorseningModel:
        """Read the model from the values in a model card."""
        steps, exponents = values["steps"], values["exponents"]
        laws = (tuple(exponents[0]), tuple(exponents[1]))
        return cls(tuple(values["levels"]), (steps[0], steps[1]), laws, tuple(values["margins"]))


def with_margin(odds: float, margin: float) -> float:
    """The probability ``odds``, with p / (1 - p) times ``margin``."""
    return odds * margin / (1 + odds * (margin - 1))


def fit_worsening(
    logarithms: np.ndarray, kinds: np.ndarray, displacements: np.ndarray, worse: np.ndarray, systems: np.ndarray
) -> WorseningModel:
    """The model under which it is most likely that just these of n predictions end further off.

    Args:
        logarithms: (n, 9) of their error features.
        kinds: (n,) of the crystals. A kind, or a law, of fewer than 100 takes the margin, or law, of all of them.
        displacements: (n,) Å, of the predictions; those that are none are left out.
        worse: (n,) bool, which of them end further from the minimum than the crystals began.
        systems: (n,) numbers of their chemical systems, from 0; of a single one crystals count one by one.

    Raises:
        ValueError: of those that move, all end further off, or none.
    """
    moves = displacements > ZERO
    known = [values[moves] for values in (logarithms, kinds, displacements, worse)]
    worse, systems = worse[moves], systems[moves]
    if worse.all() or not worse.any():
        raise ValueError("all predictions end nearer, or all further off: there is nothing to calibrate the odds by")
    if (systems == systems[0]).all():  # none could be held out: then each crystal stands for itself
        systems = np.arange(len(systems))
    margins = np.exp(np.mean([_log_margins(known, systems, number) for number in range(_DIVISIONS)], axis=0))
    return replace(_fit(*known), margins=tuple(margins.tolist()))


def _log_margins(known: list[np.ndarray], systems: np.ndarray, division: int) -> list[float]:
    """Logarithms of the margins of the kinds, by odds of chemical ``systems`` that the law was not fitted to.

    Args:
        known: features, kinds, displacements and what came of it, see :func:`fit_worsening`.
        systems: (n,) chemical systems.
        division: number of the division of the systems into folds.
    """
    kinds, worse = known[1], known[3]
    places = np.random.default_rng(division).permutation(systems.max() + 1)
    odds, fold = np.zeros(len(worse)), places[systems] % _FOLDS
    for number in range(_FOLDS):
        own, others = fold == number, fold != number
        if worse[others].any() and not worse[others].all():
            odds[own] = _fit(*(values[others] for values in known)).odds(*(values[own] for values in known[:3]))
    told = odds > 0
    of_all = _margin(odds[told], worse[told], systems[told])
    margins = [
        _margin(odds[own], worse[own], systems[own]) if (own := told & (kinds == kind)).sum() >= _FEWEST else of_all
        for kind in range(len(KINDS))
    ]
    return np.log(margins).tolist()


def _fit(logarithms: np.ndarray, kinds: np.ndarray, displacements: np.ndarray, worse: np.ndarray) -> WorseningModel:
    """The model without margins."""
    inputs = np.column_stack([_log_steps(kinds, displacements), logarithms])
    laws = []
    for own in (kinds != SLAB, kinds == SLAB):
        few = own.sum() < _FEWEST or worse[own].all() or not worse[own].any()
        chosen = np.ones_like(own) if few else own
        laws.append(_logistic(inputs[chosen], kinds[chosen], worse[chosen]))
    levels = [laws[kind == SLAB][0][kind] for kind in range(len(KINDS))]
    (_, others), (_, slabs) = laws
    return WorseningModel(tuple(levels), (others[0], slabs[0]), (tuple(others[1:]), tuple(slabs[1:])))


def _logistic(inputs: np.ndarray, kinds: np.ndarray, worse: np.ndarray) -> tuple[list[float], list[float]]:
    """Level of each of the kinds, of absent ones the mean, and weights of the ``inputs`` (n, 10)."""
    from scipy.optimize import minimize

    indicators = kinds[:, None] == np.arange(len(KINDS))
    columns = np.column_stack([inputs, indicators]).astype(float)
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale[scale < 1e-6] = 1.0  # of a feature that never varies, as the spread of one network, nothing is learnt
    design = np.column_stack([np.ones(len(columns)), (columns - centre) / scale])
    decay = np.array([0.0, *[_DECAY / len(columns)] * columns.shape[1]])

    def negative_likelihood(linear: np.ndarray) -> tuple[float, np.ndarray]:
        logit = design @ linear
        value = (np.logaddexp(0.0, logit) - worse * logit).mean() + 0.5 * (decay * linear**2).sum()
        return float(value), design.T @ (_probability(logit) - worse) / len(worse) + decay * linear

    bounds = [(None, None), (None, 0.0), *[(None, None)] * (columns.shape[1] - 1)]
    found = minimize(negative_likelihood, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / scale
    of_inputs, of_kinds = weights[: inputs.shape[1]], weights[inputs.shape[1] :]
    share = centre[inputs.shape[1] :]
    base = found[0] - weights @ centre
    return (base + np.where(share > 0, of_kinds, of_kinds @ share)).tolist(), of_inputs.tolist()


def _margin(odds: np.ndarray, worse: np.ndarray, systems: np.ndarray) -> float:
    """The least margin that keeps the share of those that end further off, of those within the limit, to one in twenty.

    Args:
        odds: (n,) above 0.
        worse: (n,) bool, what came of them.
        systems: (n,) chemical systems.
    """
    order = np.argsort(odds)[: (odds <= MAX_ODDS_WORSE).sum()]
    if len(odds) < _FEWEST or not len(order):
        return 1.0
    odds, bounds = odds[order], _share_bounds(odds[order], worse[order], systems[order])
    held = np.flatnonzero((bounds <= ACCEPTED_WORSE) & (odds < np.append(odds[1:], 1.0)))  # of equal ones the last
    if len(held) and held[-1] == len(odds) - 1:
        return 1.0
    largest = odds[held[-1]] if len(held) else odds[0] / 2
    return float(MAX_ODDS_WORSE / (1 - MAX_ODDS_WORSE) * (1 - largest) / largest)


def _share_bounds(odds: np.ndarray, worse: np.ndarray, systems: np.ndarray) -> np.ndarray:
    """(n,) expected share of ``worse`` ones among the first, the first two, ... of n, and its standard error above.

    What the ``odds`` tell counts as much as :data:`_FEWEST` crystals. With k of n_c crystals of system c worse, the
    error is ``sqrt(sum over c (k_c - share n_c)^2)``, over as many.
    """
    bad_of, count_of = np.zeros(systems.max() + 1), np.zeros(systems.max() + 1)
    changes = np.zeros((len(worse), 3))  # by each crystal, of the sums over c of k_c k_c, k_c n_c and n_c n_c
    for row, (bad, c) in enumerate(zip(worse.tolist(), systems.tolist(), strict=True)):
        changes[row] = bad * (2 * bad_of[c] + 1), bad_of[c] + bad * (count_of[c] + 1), 2 * count_of[c] + 1
        bad_of[c] += bad
        count_of[c] += 1
    squares, mixed, sizes = changes.cumsum(axis=0).T
    bad, count = np.cumsum(worse), np.arange(1, len(worse) + 1)
    share = bad / count
    error = np.sqrt(np.maximum(squares - 2 * share * mixed + share**2 * sizes, (_LEAST_ERROR * count) ** 2))
    return (bad + _FEWEST * np.cumsum(odds) / count + error) / (count + _FEWEST)


def _log_steps(kinds: np.ndarray, displacements: np.ndarray) -> np.ndarray:
    """(G,) logarithms of the steps, as far as they count."""
    return np.log(np.clip(displacements, ZERO, np.where(kinds == SLAB, LONG, np.inf)))


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logit, -50, 50)))
