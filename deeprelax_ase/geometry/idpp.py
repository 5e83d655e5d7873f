"""Images between two crystals by the image dependent pair potential, IDPP.

S. Smidstrup, A. Pedersen, K. Stokbro and H. Jónsson, J. Chem. Phys. 140, 214106 (2014). ASE's nudged elastic band holds
the images apart. The pair potential is made here: ASE's own and that of pymatgen-analysis-diffusion know one cell for
all images, and of each atom the nearest periodic image alone, which in the small cells of crystals leaves out most of
those that an atom can run into.

Positions are given as they are in one reference cell. The deformation to the cell of an image is given beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.neighborlist import primitive_neighbor_list
from ase.optimize import FIRE

from deeprelax_ase.graph.shapes import (
    CellArray,
    PairArray,
    PairLengthArray,
    PairVectorArray,
    PathArray,
    PathCellArray,
    PositionArray,
)

#: Å. Pairs that are further apart than this on all of the first guess have no part in the potential.
CUTOFF = 6.0

#: Å. Where no atom moves by more than this, the guess is as good as any path.
_AT_REST = 1e-3

#: Å. Atoms nearer than this repel each other as if they were this far apart, so that the potential stays finite.
_CORE = 0.05

#: The elastic band: spring constant (Å^-4), largest force on images at rest (Å^-3), most steps.
_SPRING, _FMAX, _STEPS = 1.0, 1e-3, 300


class PairPotential:
    """The potential of one image: the sum of w(d) (d - d0)^2, w = d^-4, over pairs of atoms.

    A calculator in that ``Atoms`` can ask it for energy (Å^-2) and forces (Å^-3). It is none of ASE's, which spend more
    time on finding out what has changed than this takes.

    Args:
        pairs: (P, 2) int, atoms i and j.
        shifts: (P, 3) Å, what leads from j to its periodic image, in the reference cell.
        deformation: (3, 3) what takes rows of coordinates from the reference cell to that of the image.
        targets: (P,) Å, the distances d0.
    """

    def __init__(
        self, pairs: PairArray, shifts: PairVectorArray, deformation: CellArray, targets: PairLengthArray
    ) -> None:
        self.pairs, self.shifts, self.deformation, self.targets = pairs, shifts, deformation, targets
        self._positions = np.empty(0)
        self._energy, self._forces = 0.0, np.empty(0)

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:
        """The potential, Å^-2, of ``atoms`` with positions in the reference cell."""
        self._evaluate(atoms.positions)
        return self._energy

    def get_forces(self, atoms: Atoms) -> PositionArray:
        """(N, 3) Å^-3, minus the gradient with respect to the positions in the reference cell."""
        self._evaluate(atoms.positions)
        return self._forces.copy()

    def _evaluate(self, positions: PositionArray) -> None:
        if np.array_equal(positions, self._positions):
            return
        vectors = _pair_vectors(positions, self.pairs, self.shifts) @ self.deformation
        distances = np.maximum(np.linalg.norm(vectors, axis=1), _CORE)
        off = distances - self.targets
        slopes = 2 * off / distances**4 - 4 * off**2 / distances**5
        pulls = (slopes / distances)[:, None] * vectors @ self.deformation.T
        forces = np.zeros_like(positions)
        np.add.at(forces, self.pairs[:, 0], pulls)
        np.add.at(forces, self.pairs[:, 1], -pulls)
        self._positions, self._energy, self._forces = positions.copy(), float((off**2 / distances**4).sum()), forces


def elastic_band(
    guess: PathArray,
    reference: CellArray,
    deformations: PathCellArray,
    *,
    pushes: PathArray | None = None,
    constraints: Any = (),
) -> PathArray:
    """Images whose distances go as evenly from those of the first to those of the last as they can.

    Args:
        guess: (n, N, 3) Å, positions in the reference cell; the first and the last image stay as they are.
        reference: (3, 3) Å, lattice vectors in rows.
        deformations: (n, 3, 3) from the reference cell to that of each image.
        pushes: (n, N, 3) Å, how far each atom starts off the guess.
        constraints: ASE's, kept by all images in the reference cell.

    Returns:
        (n, N, 3) Å, positions in the reference cell.
    """
    guess_moves = np.abs(guess - guess[0]).max() > _AT_REST
    if len(guess) == 2 or not guess_moves:
        return guess
    pairs, shifts = _pairs(guess, reference, deformations)
    first, last = (np.linalg.norm(_pair_vectors(guess[k], pairs, shifts) @ deformations[k], axis=1) for k in (0, -1))
    images = []
    for k, t in enumerate(np.linspace(0, 1, len(guess))):
        image = Atoms(f"X{len(guess[k])}", positions=guess[k], cell=reference, constraint=constraints)
        if pushes is not None:
            image.set_positions(guess[k] + pushes[k])
        image.calc = PairPotential(pairs, shifts, deformations[k], (1 - t) * first + t * last)
        images.append(image)
    with FIRE(NEB(images, k=_SPRING, method="improvedtangent"), logfile=None) as fire:
        fire.run(fmax=_FMAX, steps=_STEPS)
    return np.array([image.positions for image in images])


def _pairs(path: PathArray, reference: CellArray, deformations: PathCellArray) -> tuple[PairArray, PairVectorArray]:
    """Pairs (P, 2) of different atoms that come within the cutoff on the path, and shifts (P, 3) Å of the second."""
    found = []
    for positions, deformation in zip(path, deformations, strict=True):
        i, j, offsets = primitive_neighbor_list(
            "ijS", [True] * 3, reference @ deformation, positions @ deformation, CUTOFF
        )
        found.append(np.column_stack([i, j, offsets])[i < j])  # each pair once
    rows = np.unique(np.concatenate(found), axis=0)
    return rows[:, :2], rows[:, 2:] @ reference


def _pair_vectors(positions: PositionArray, pairs: PairArray, shifts: PairVectorArray) -> PairVectorArray:
    return positions[pairs[:, 1]] - positions[pairs[:, 0]] + shifts
