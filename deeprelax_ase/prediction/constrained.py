"""Moving atoms by ASE's rules, as far as constraints let them: of predictions and of the optimizer's jump alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.cell import Cell

from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.geometry.contacts import closest_contact
from deeprelax_ase.geometry.strain import logarithmic_strain, matrix_function
from deeprelax_ase.prediction.physical import Flaw, flaw_error
from deeprelax_ase.prediction.record import Prediction

#: Å, what constraints seem to take of a displacement where they take nothing.
_ROUNDING = 1e-9

#: Largest element of a strain that FixSymmetry is given at once; ASE refuses to symmetrise large ones.
_SYMMETRIC_STEP = 0.1


def constrained(prediction: Prediction) -> Prediction | DeepRelaxError:
    """``prediction`` as far as the constraints of its crystal let the atoms go; an error where they collide there."""
    crystal, relaxed = prediction.initial, prediction.relaxed
    if not crystal.constraints or prediction.unchanged:
        return prediction
    atoms = crystal.to_atoms()
    if not np.array_equal(crystal.cell, relaxed.cell):
        strain_atoms(atoms, relaxed.cell)
    displace_atoms(atoms, prediction.displacements)
    held = replace(prediction, relaxed=crystal.with_geometry(atoms.positions, atoms.cell.array))
    return flaw_error(Flaw.COLLISION, held) if closest_contact(held.relaxed).collides else held


def strain_atoms(atoms: Atoms, new_cell: np.ndarray) -> None:
    """Set the cell to ``new_cell`` (3, 3) in Å and carry the atoms along; constraints may adjust it."""
    strain = logarithmic_strain(atoms.cell.complete().array, Cell(new_cell).complete().array)
    steps = max(1, int(np.ceil(np.abs(strain).max() / _SYMMETRIC_STEP))) if atoms.constraints else 1
    if steps == 1:
        atoms.set_cell(new_cell, scale_atoms=True)
    for _ in range(steps if steps > 1 else 0):  # each from where constraints have let the last one come
        atoms.set_cell(atoms.cell.array @ matrix_function(np.exp, strain / steps), scale_atoms=True)


def displace_atoms(atoms: Atoms, displacements: np.ndarray, visible: np.ndarray | None = None) -> None:
    """Displace the atoms by ``displacements`` (N, 3) in Å, as far as their constraints let them.

    The model does not tell where the crystal as a whole is: it is put where constraints take least from the motion, so
    that, say, a fixed atom does not spoil the distances to its neighbours.

    Args:
        atoms: are changed.
        displacements: beyond being carried along by the cell.
        visible: (N,) bool, the atoms that may move; all by default.
    """
    moving = np.ones(len(atoms), dtype=bool) if visible is None else visible
    taken = _taken(atoms, displacements, moving)
    if taken.any():
        common = [np.broadcast_to(axis, displacements.shape) for axis in np.eye(3)]
        taken_of_common = np.stack([_taken(atoms, one, moving).ravel() for one in common], axis=1)
        displacements = displacements - np.linalg.lstsq(taken_of_common, taken.ravel(), rcond=1e-6)[0]
    atoms.set_positions(atoms.positions + displacements * moving[:, None])


def _taken(atoms: Atoms, displacements: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(N, 3) Å, of ``displacements`` what constraints take, and atoms that may not move; zero where it is rounding."""
    positions = atoms.positions + displacements * moving[:, None]
    for constraint in atoms.constraints:
        constraint.adjust_positions(atoms, positions)
    taken = displacements - (positions - atoms.positions)
    return np.where(np.abs(taken) > _ROUNDING, taken, 0.0)
