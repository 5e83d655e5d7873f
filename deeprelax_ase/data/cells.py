"""Lattices in other vectors: which choice of them is least strained, and which images of atoms are nearest."""

from __future__ import annotations

from itertools import product

import numpy as np

#: Multiples of reduced lattice vectors that new ones are made of.
_MULTIPLES = np.array([v for v in product(range(-2, 3), repeat=3) if any(v)])

_NEIGHBOURS = np.array(list(product((-1, 0, 1), repeat=3)))


def lattice_changes(cell: np.ndarray, other: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Choices of lattice vectors in which one lattice is like another.

    Both lattices are reduced first. A deformation that stretches nothing by more than exp(``largest``) changes no
    length by more than that, so that few vectors come into question for each of the three.

    Args:
        cell: (3, 3) Å, lattice vectors in rows.
        other: (3, 3) Å, those that are to be changed.
        largest: logarithmic strain up to which lattices are alike.

    Returns:
        integer matrices M (K, 3, 3) of determinant 1 or -1, for which ``M @ other`` is ``cell`` deformed by no more
        than ``largest``, and the largest logarithmic strain of each (K,), ascending.
    """
    target, to_target = reduced(cell)
    source, to_source = reduced(other)
    lengths = np.linalg.norm(_MULTIPLES @ source, axis=1)
    ratios = np.log(lengths[:, None] / np.linalg.norm(target, axis=1))
    rows = [_MULTIPLES[np.abs(ratios[:, k]) <= largest + 1e-9] for k in range(3)]
    index = np.stack(np.meshgrid(*(np.arange(len(r)) for r in rows), indexing="ij"), axis=-1).reshape(-1, 3)
    changes = np.stack([rows[k][index[:, k]] for k in range(3)], axis=1)
    first, second, third = changes[:, 0], changes[:, 1], changes[:, 2]
    changes = changes[np.abs(np.einsum("ni,ni->n", np.cross(first, second), third)) == 1]
    stretches = np.linalg.svd(np.linalg.inv(target) @ (changes @ source), compute_uv=False)
    strains = np.abs(np.log(stretches)).max(axis=1, initial=0.0)
    order = np.argsort(strains, kind="stable")
    order = order[strains[order] <= largest]
    back = np.round(np.linalg.inv(to_target)).astype(int)
    return back @ changes[order] @ to_source, strains[order]


def reduced(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Minkowski-reduced lattice vectors (3, 3) in Å, and the integer matrix that takes ``cell`` to them."""
    from ase.geometry import minkowski_reduce

    vectors, change = minkowski_reduce(cell)
    return np.asarray(vectors), np.asarray(change)


def without_drift(difference: np.ndarray) -> np.ndarray:
    """(N, 3) fractional differences less their mean, each rounded into the cell around it."""
    angle = 2 * np.pi * difference
    drift = np.arctan2(np.sin(angle).mean(axis=0), np.cos(angle).mean(axis=0)) / (2 * np.pi)
    difference = difference - drift
    difference = difference - np.round(difference)
    return difference - difference.mean(axis=0)


def nearest_differences(difference: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(N, 3) fractional differences to the nearest images in ``cell`` (3, 3), less their mean.

    In a skewed cell the image that rounding gives is not always the nearest.
    """
    rounded = without_drift(difference)
    thinnest = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max()  # no lattice vector is shorter
    if np.linalg.norm(rounded @ cell, axis=1).max() < thinnest / 2:
        return rounded
    vectors, change = reduced(cell)
    found = without_drift(difference @ np.linalg.inv(change))
    for _ in range(3):  # the mean follows the images, and they follow it
        images = found[:, None] + _NEIGHBOURS
        nearest = np.linalg.norm(images @ vectors, axis=2).argmin(axis=1)
        moved = images[np.arange(len(found)), nearest]
        moved = moved - moved.mean(axis=0)
        if np.allclose(moved, found, rtol=0, atol=1e-12):
            break
        found = moved
    return found @ change
