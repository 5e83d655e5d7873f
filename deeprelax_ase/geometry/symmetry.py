"""Projection of a predicted relaxation onto the space group of the unrelaxed crystal.

Forces and stress have the symmetry of the crystal, so a relaxation keeps it: sites that symmetry fixes do not move, and
equal sites stay equal. A network whose encoding depends on the choice of the cell keeps it only roughly. The projection
restores it exactly, by averaging deformation and displacements over the operations of the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.strain import logarithmic_strain, matrix_function
from deeprelax_ase.graph.shapes import (
    AtomArray,
    CellArray,
    OriginArray,
    PositionArray,
    RotatedArray,
    RotationArray,
    TranslationArray,
)
from deeprelax_ase.io.spglib_import import quiet_spglib

#: Å. How far atoms may be from symmetric positions. It covers files with four decimals; a symmetry broken on purpose by
#: more than this is left broken.
SYMPREC = 1e-3

#: Å. Sites of a crystal are further apart than this; an operation must bring an atom at least this near to another.
_SITE_RADIUS = 0.25


#: Distances between operated and original atoms that are compared at once, to bound the memory.
_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class SymmetryOperations:
    """The space group of a crystal with N atoms: R rotations, each up to translations of the crystal.

    All of the group is here, also where the given cell is a supercell that some operations do not map onto itself.
    Fractional coordinates refer to the conventional cell.

    Attributes:
        basis: (3, 3) Å, the conventional lattice vectors in rows, in the crystal's own orientation.
        rotations: (R, 3, 3) int, W acting on fractional coordinates in columns, ``x' = W x + w``.
        origins: (R, N) int, an atom that the operation brings to the place of each atom, up to a lattice translation.
        copies: (N,) int, equal for atoms that are copies of each other in a supercell.
    """

    basis: CellArray
    rotations: RotationArray
    origins: OriginArray
    copies: AtomArray


def project(
    initial: Crystal, positions: PositionArray, cell: CellArray, operations: SymmetryOperations | None
) -> tuple[PositionArray, CellArray]:
    """The predicted ``positions`` and ``cell``, given the symmetry of the unrelaxed crystal.

    The deformation from the initial cell to ``cell`` is split into a stretch and a rotation; the logarithm of the
    stretch is averaged over the group, which keeps the predicted volume, and applied to the initial cell. Hence a
    rotation in the prediction is dropped, from cell and atoms alike: the orientation is the initial crystal's. Atoms
    are carried along by the new cell and displaced by the average of the predicted fractional displacements. A common
    displacement of all atoms stays where the group is polar, and vanishes otherwise.

    Args:
        initial: the unrelaxed crystal.
        positions: (N, 3) Å, same atom order and periodic images as the initial crystal's.
        cell: (3, 3) Å, lattice vectors in rows; if it equals the initial one, it is returned as it is.
        operations: of :func:`symmetry_operations` for the initial crystal.

    Returns:
        New positions and cell. The arguments themselves where there are no operations, or the prediction is not finite
        or without volume.
    """
    finite = np.isfinite(positions).all() and np.isfinite(cell).all()
    if operations is None or not finite or np.linalg.det(cell) == 0:
        return positions, cell
    fractional = initial.fractional_positions
    to_basis = initial.cell @ np.linalg.inv(operations.basis)
    displacements = (positions @ np.linalg.inv(cell) - fractional) @ to_basis
    displacements = _symmetrize_displacements(displacements, operations) @ np.linalg.inv(to_basis)
    new_cell = cell if np.array_equal(cell, initial.cell) else _symmetrize_cell(initial.cell, cell, operations)
    return (fractional + displacements) @ new_cell, new_cell


def symmetry_operations(crystal: Crystal, *, symprec: float = SYMPREC) -> SymmetryOperations | None:
    """The operations of the space group; None if there is but the identity, or spglib finds no answer."""
    dataset = _spglib_dataset(crystal, symprec)
    if dataset is None:
        return None
    copies = np.asarray(dataset.mapping_to_primitive)
    rotations, translations = _group(dataset.hall_number)
    if len(rotations) == 1 and len(np.unique(copies)) == len(crystal):
        return None
    basis = np.linalg.inv(dataset.transformation_matrix).T @ crystal.cell
    fractional = crystal.fractional_positions @ dataset.transformation_matrix.T + dataset.origin_shift
    # up to the primitive cell's translations copies lie at one place: one of each is enough, whatever the supercell
    _, first, same = np.unique(copies, return_index=True, return_inverse=True)
    places, kinds = fractional[first], crystal.numbers[first]
    images = np.einsum("sab,nb->sna", rotations, places) + translations[:, None]
    origins = _origins(kinds, places @ basis, images @ basis, np.asarray(dataset.primitive_lattice))
    return None if origins is None else SymmetryOperations(basis, rotations, first[origins][:, same], copies)


def _spglib_dataset(crystal: Crystal, symprec: float) -> Any:
    spglib = quiet_spglib()
    structure = (crystal.cell, crystal.fractional_positions, crystal.numbers)
    try:
        return spglib.get_symmetry_dataset(structure, symprec=symprec)
    except getattr(spglib, "SpglibError", ()):  # spglib < 2.7 has no such class, and returns None
        return None


@cache
def _group(hall_number: int) -> tuple[RotationArray, TranslationArray]:
    """Rotations (R, 3, 3) and translations (S, 3) in the conventional cell, one for each rotation."""
    group = quiet_spglib().get_symmetry_from_database(hall_number)
    rotations, first = np.unique(group["rotations"], axis=0, return_index=True)
    return rotations, group["translations"][first]


def _origins(numbers: AtomArray, places: PositionArray, images: RotatedArray, lattice: CellArray) -> OriginArray | None:
    """(R, N) which of the ``images`` (R, N, 3) of the atoms lies at each of the ``places`` (N, 3), up to ``lattice``.

    None where there is none, or an atom of another kind.
    """
    inverse = np.linalg.inv(lattice)
    chunk = max(1, _CHUNK // len(numbers) ** 2)
    found = []
    for first in range(0, len(images), chunk):
        difference = (places[:, None] - images[first : first + chunk, None]) @ inverse  # (R, place, origin, 3)
        difference = (difference - np.round(difference)) @ lattice
        distances = np.einsum("spoa,spoa->spo", difference, difference)
        if (distances.min(axis=2) > _SITE_RADIUS**2).any():
            return None
        found.append(distances.argmin(axis=2))
    origins = np.concatenate(found)
    return origins if (numbers[origins] == numbers).all() else None


def _symmetrize_displacements(displacements: PositionArray, operations: SymmetryOperations) -> PositionArray:
    """(N, 3) fractional displacements in the conventional cell, averaged over copies, then over the rotations."""
    sums = np.zeros_like(displacements)
    np.add.at(sums, operations.copies, displacements)
    copies = np.bincount(operations.copies)[operations.copies]
    displacements = sums[operations.copies] / copies[:, None]
    return np.einsum("sab,snb->sna", operations.rotations, displacements[operations.origins]).mean(axis=0)


def _symmetrize_cell(initial: CellArray, cell: CellArray, operations: SymmetryOperations) -> CellArray:
    """The initial cell under the stretch that takes it to ``cell``, its logarithm averaged over the group.

    With lattice vectors in rows, ``cell = initial @ F`` and ``F = U Q``: U stretches, then Q rotates. In lattice
    coordinates the operations are whole numbers that form a group exactly, however rough the atoms' positions.
    """
    strain = logarithmic_strain(initial, cell)
    covariant = operations.basis @ strain @ operations.basis.T
    mean = (operations.rotations.transpose(0, 2, 1) @ covariant @ operations.rotations).mean(axis=0)
    inverse = np.linalg.inv(operations.basis)
    return initial @ matrix_function(np.exp, inverse @ mean @ inverse.T)
