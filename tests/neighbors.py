"""Neighbours for ASE's EMT and Lennard-Jones in the tests, found at once: ASE looks at image after image."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators import emt, lj
from ase.neighborlist import NeighborList

#: Larger crystals have few images within reach.
MOST_ATOMS = 16


class Neighbors:
    """ASE's ``NeighborList``, as far as these two ask it: both ways, without atoms themselves, within one cutoff."""

    def __init__(self, cutoffs: list[float]) -> None:
        self.cutoff = 2 * max(cutoffs)

    def update(self, atoms: Atoms) -> None:
        cell = atoms.cell.complete()
        spread = np.ptp(cell.scaled_positions(atoms.positions), axis=0)
        reach = self.cutoff * np.linalg.norm(cell.reciprocal(), axis=1) + spread
        reach = np.where(atoms.pbc, np.ceil(reach), 0).astype(int)
        self.images = np.indices(2 * reach + 1).reshape(3, -1).T - reach
        between = atoms.positions - atoms.positions[:, None]  # of pairs of atoms
        squared = np.square(between[..., None, :] + self.images @ atoms.cell.array).sum(axis=-1)
        squared[range(len(atoms)), range(len(atoms)), len(self.images) // 2] = np.inf
        self.near = squared < self.cutoff**2

    def get_neighbors(self, atom: int) -> tuple[np.ndarray, np.ndarray]:
        others, images = self.near[atom].nonzero()
        return others, self.images[images]


def _neighbors(cutoffs: list[float], **options: bool) -> Neighbors | NeighborList:
    return Neighbors(cutoffs) if len(cutoffs) <= MOST_ATOMS else NeighborList(cutoffs, **options)


emt.NeighborList = lj.NeighborList = _neighbors
