"""Ends of paths, and measures of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from deeprelax_ase.crystal import Crystal

COPPER = bulk("Cu", "fcc", a=3.6, cubic=True)


def deformed(crystal: Crystal, rng: np.random.Generator, *, strain: float = 0.05, move: float = 0.1) -> Crystal:
    """With a symmetric deformation, which does not turn, and displacements."""
    matrix = rng.normal(scale=strain, size=(3, 3))
    cell = crystal.cell @ (np.eye(3) + (matrix + matrix.T) / 2)
    positions = crystal.fractional_positions @ cell + rng.normal(scale=move, size=crystal.positions.shape)
    return crystal.with_geometry(positions, cell)


def exchanged(atoms: Atoms, i: int, j: int) -> Atoms:
    other = atoms.copy()
    other.positions[[i, j]] = atoms.positions[[j, i]]
    return other


def hop(repeat: int = 2) -> tuple[Atoms, Atoms]:
    """A vacancy's neighbour before and after it moves into the vacancy."""
    start = COPPER.repeat(repeat)
    vacancy = start.positions[0].copy()
    del start[0]
    end = start.copy()
    end.positions[0] = vacancy
    return start, end


def nearest(atoms: Atoms) -> np.ndarray:
    """(N,) Å, distance to the nearest neighbour."""
    i, d = neighbor_list("id", atoms, 6.0)
    distances = np.full(len(atoms), 6.0)
    np.minimum.at(distances, i, d)
    return distances


def closest_ratio(images: list[Atoms], between: int = 4) -> float:
    """Smallest distance over what either atom keeps at both ends, on images and on straight lines between them."""
    kept = np.minimum(nearest(images[0]), nearest(images[-1]))
    smallest = 1.0
    for a, b in pairwise(images):
        for part in np.arange(between + 1) / between:
            point = a.copy()
            point.set_cell((1 - part) * a.cell.array + part * b.cell.array)
            point.set_positions((1 - part) * a.positions + part * b.positions, apply_constraint=False)
            i, j, d = neighbor_list("ijd", point, 4.0)
            smallest = min(smallest, (d / np.maximum(kept[i], kept[j])).min(initial=1.0))
    return float(smallest)


def straight(initial: Atoms, relaxed: Atoms, n_images: int = 9) -> list[Atoms]:
    images = []
    for t in np.linspace(0, 1, n_images):
        image = initial.copy()
        image.set_cell((1 - t) * initial.cell.array + t * relaxed.cell.array)
        fractional = [atoms.get_scaled_positions(wrap=False) for atoms in (initial, relaxed)]
        image.set_scaled_positions((1 - t) * fractional[0] + t * fractional[1])
        images.append(image)
    return images


def assert_same_path(a: list[Atoms], b: list[Atoms], *, atol: float) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=atol)
        np.testing.assert_allclose(one.cell.array, other.cell.array, rtol=0, atol=atol)
