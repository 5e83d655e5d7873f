"""Lattices in other vectors: which choice of them is least strained, and which images of atoms are nearest."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from deeprelax_ase.geometry.nearest_images import nearest_displacements

#: Multiples of reduced lattice vectors that new ones are made of.
_MULTIPLES = np.array([v for v in product(range(-2, 3), repeat=3) if any(v)])


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


def nearest_differences(difference: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(N, 3) fractional differences to the nearest images in ``cell`` (3, 3), less their mean."""
    rows = torch.tensor(difference, dtype=torch.float64)
    batch = torch.zeros(len(rows), dtype=torch.int64)
    moved = nearest_displacements(rows, torch.tensor(cell, dtype=torch.float64)[None], batch)
    return moved.numpy() @ np.linalg.inv(cell)
