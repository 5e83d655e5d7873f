"""Assignment of the atoms of one crystal to those of another, in the same lattice and wherever the origins are."""

from __future__ import annotations

import numpy as np

#: For each element the places of its atoms in the one crystal and in the other.
Kinds = list[tuple[np.ndarray, np.ndarray]]

#: Atoms that the origin is looked for with, origins that are tried, and how often each is moved to where atoms lead it.
_ANCHORS, _ORIGINS, _ROUNDS = 3, 6, 4

#: Distances that are computed at once.
_AT_ONCE = 1_000_000


def places_by_element(numbers: np.ndarray, others: np.ndarray) -> Kinds:
    """Places of the atoms of each element in ``numbers`` (N,) and in ``others`` (N,), which hold the same ones."""
    return [(np.flatnonzero(numbers == z), np.flatnonzero(others == z)) for z in np.unique(numbers)]


def best_order(start: np.ndarray, end: np.ndarray, kinds: Kinds, vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The order, with the origin that suits it, in which atoms move least.

    Args:
        start, end: (N, 3) fractional coordinates of both crystals in ``vectors``, in any images.
        kinds: see :func:`places_by_element`.
        vectors: (3, 3) Å, reduced lattice vectors, in which rounding finds images that are near.

    Returns:
        for each atom of ``start`` (N,) the one of ``end`` that it becomes, and the mean displacement in Å.
    """
    least, best = np.inf, np.arange(len(end))
    for shift in _origins(start, end, kinds, vectors):
        for _ in range(_ROUNDS):  # the first origin leans on one atom, the next ones on all
            order = _assign(start, end + shift, kinds, vectors)
            moved = start - end[order] - shift
            moved -= np.round(moved)
            drift = moved.mean(axis=0)
            mean = np.linalg.norm((moved - drift) @ vectors, axis=1).mean()
            if mean > least - 1e-9:
                break
            least, best, shift = mean, order, shift + drift
    return best, float(least)


def _origins(start: np.ndarray, end: np.ndarray, kinds: Kinds, vectors: np.ndarray) -> np.ndarray:
    """(K, 3) shifts of ``end`` that put an atom onto one of its kind and others near theirs, the best ones first."""
    here, there = min(kinds, key=lambda kind: len(kind[0]))
    shifts = (start[here[:_ANCHORS], None] - end[there]).reshape(-1, 3)
    at_once = max(1, _AT_ONCE // len(start) ** 2)
    near = [
        sum(_distances(start[a], end[b] + part[:, None], vectors).min(axis=2).sum(axis=1) for a, b in kinds)
        for part in np.array_split(shifts, range(at_once, len(shifts), at_once))
    ]
    return shifts[np.argsort(np.concatenate(near).round(6), kind="stable")[:_ORIGINS]]


def _distances(start: np.ndarray, end: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(..., n, m) Å from ``start`` (n, 3) to ``end`` (..., m, 3), between images that are nearest up to rounding."""
    difference = end[..., None, :, :] - start[:, None]
    return np.linalg.norm((difference - np.round(difference)) @ vectors, axis=-1)


def _assign(start: np.ndarray, end: np.ndarray, kinds: Kinds, vectors: np.ndarray) -> np.ndarray:
    """(N,) for each atom of ``start`` the one of ``end``; the squares of the distances add up to least."""
    from scipy.optimize import linear_sum_assignment

    order = np.empty(len(start), dtype=int)
    for here, there in kinds:
        rows, columns = linear_sum_assignment(_distances(start[here], end[there], vectors) ** 2)
        order[here[rows]] = there[columns]
    return order
