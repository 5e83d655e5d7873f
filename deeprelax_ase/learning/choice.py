"""Choice of what is labelled next: crystals that a network is expected to be wrong about, unlike each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.labelling.similarity import MENDELEEV
from deeprelax_ase.prediction.record import Prediction


def expected_error(prediction: Prediction) -> float:
    """Å, expected error of coordinates and lattice vectors together; its uncertainty where that is not calibrated."""
    error = prediction.error
    if error is None:
        return float(prediction.uncertainty.total)
    return float(error.coordinates + (error.volume or 0.0) / 3 * np.cbrt(prediction.relaxed.volume))


def value_of(predictions: Sequence[Prediction], choice: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) from 0 to 1, the value of a label of each crystal that was predicted.

    Args:
        predictions: of one model.
        choice: ``error`` ranks them by :func:`expected_error`, ``novelty`` by how unlike they are to what the model
            knows, ``both`` by the mean of these two ranks, ``random`` by chance.
        rng: for chance.
    """
    if choice == "random":
        return rng.random(len(predictions))
    error = rankdata([expected_error(one) for one in predictions])
    novelty = rankdata([0.0 if one.error is None else one.error.novelty or 0.0 for one in predictions])
    ranks = {"error": error, "novelty": novelty, "both": (error + novelty) / 2}[choice]
    return ranks / max(len(predictions), 1)


def choose(
    values: NDArray[np.float64], crystals: Sequence[Crystal], known: Sequence[Crystal], number: int, *, spread: int = 4
) -> list[int]:
    """Places of the ``number`` crystals to label, by value, and far from each other.

    Of ``spread`` times as many crystals of the highest value, one after the other is taken that is furthest from all
    that are taken and from those that are ``known``, as far as :func:`description` tells (farthest-point sampling).

    Args:
        values: (n,) of a label of each.
        crystals: (n,) them.
        known: that are labelled already.
        number: to take, at most.
        spread: 1 takes those of the highest value.
    """
    best = np.argsort(-values, kind="stable")[: number * spread]
    if len(best) <= number or spread == 1:
        return best[:number].tolist()
    described = np.stack([description(crystals[place]) for place in best])
    apart = np.full(len(best), np.inf)
    for crystal in known:
        apart = np.minimum(apart, np.abs(described - description(crystal)).sum(axis=1))
    taken: list[int] = []
    while len(taken) < number:
        new = int(np.argmax(apart))  # the one of the highest value, where several are as far
        taken.append(new)
        apart = np.minimum(apart, np.abs(described - described[new]).sum(axis=1))
        apart[taken] = -1.0
    return best[taken].tolist()


def cover(
    weights: NDArray[np.float64], crystals: Sequence[Crystal], known: Sequence[Crystal], number: int
) -> list[int]:
    """Places of the ``number`` crystals to label that leave the least of all ``weights`` far from any label.

    One after the other is taken that lowers it most, the sum over all crystals of weight times one less likeness to the
    likest label: crystals among many of their like come before those that are like no other. Likeness falls by e over
    the distance within which each crystal has as many others as there are for each new label.

    Args:
        weights: (n,) of each, its expected error.
        crystals: (n,) them.
        known: that are labelled already.
        number: to take, at most.
    """
    if len(crystals) <= number:
        return list(range(len(crystals)))
    described = np.stack([description(crystal) for crystal in crystals])
    distances = cdist(described, described, "cityblock")
    others = min(max(len(crystals) // number, 1), len(crystals) - 1)
    near = np.partition(distances, others, axis=1)[:, others]
    scale = max(float(np.median(near)), 1e-9)
    likeness, covered = np.exp(-distances / scale), np.zeros(len(crystals))
    if len(known):
        there = np.stack([description(crystal) for crystal in known])
        covered = np.exp(-cdist(described, there, "cityblock").min(axis=1) / scale)
    gains, taken = weights @ np.maximum(likeness - covered[:, None], 0.0), list[int]()
    while len(taken) < number:
        best = int(np.argmax(gains))
        gain = float(weights @ np.maximum(likeness[:, best] - covered, 0.0))
        if gain < gains[best] * (1 - 1e-9):  # gains only fall as others are taken, so that old ones are bounds
            gains[best] = gain
            continue
        taken.append(best)
        covered, gains[best] = np.maximum(covered, likeness[:, best]), -1.0
    return taken


def description(crystal: Crystal) -> NDArray[np.float64]:
    """Numbers of a crystal whose absolute differences add up to how unlike another one it is.

    The shares of elements, added up along Pettifor's order of likeness, so that differences are the way that elements
    would have to go in it (earth mover's distance), from 0 to 1; and a third of the logarithm of the volume per atom.
    """
    order = np.array(MENDELEEV)
    places = order[np.clip(crystal.numbers, 1, len(order)) - 1]
    shares = np.bincount(places, minlength=order.max() + 1) / len(crystal)
    return np.append(shares.cumsum() / len(order), np.log(crystal.volume / len(crystal)) / 3)
