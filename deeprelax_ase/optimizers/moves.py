"""Moving atoms to where a model predicts them, exactly as far as constraints and filters let them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.cell import Cell
from ase.filters import StrainFilter

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureError
from deeprelax_ase.geometry.strain import logarithmic_strain, matrix_function
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.freedom import permitted

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: Å, what constraints seem to take of a displacement where they take nothing.
_ROUNDING = 1e-9

#: Largest element of a strain that FixSymmetry is given at once; ASE refuses to symmetrise large ones.
_SYMMETRIC_STEP = 0.1


def move_to(dof: DegreesOfFreedom, prediction: Prediction, predictor: Predictor | None = None) -> None:
    """Move the atoms to where they are predicted, cell and positions as far as they may move.

    Where constraints keep the cell from the predicted one, ``predictor`` predicts once more, in the cell that they
    allow. Without it, the displacements stay those of the prediction.
    """
    crystal, relaxed = prediction.initial, prediction.relaxed
    if dof.free and dof.normal is None:
        _set_geometry(dof, relaxed)
        return
    displacements = prediction.displacements
    if dof.cell is not None:
        deformation = permitted(dof.cell, logarithmic_strain(crystal.cell, relaxed.cell), dof.plane)
        new_cell = _masked_cell(dof, dof.atoms.cell.array @ deformation)
        restricted = not np.allclose(crystal.cell @ deformation, relaxed.cell, rtol=0, atol=1e-9)
        if predictor is not None and dof.visible.any() and restricted:
            displacements = _displacements_in(crystal, crystal.cell @ deformation, predictor, displacements)
        _strain(dof, new_cell)
    _displace(dof, displacements)


def _displacements_in(crystal: Crystal, cell: np.ndarray, predictor: Predictor, otherwise: np.ndarray) -> np.ndarray:
    """(N, 3) Å, those that the model predicts in ``cell``, or ``otherwise`` where it cannot tell."""
    carried = crystal.with_geometry(crystal.fractional_positions @ cell, cell)
    try:
        return predictor.predict(carried, relax_cell=False).displacements
    except StructureError:  # the cell brings atoms too close or too far apart for the model
        return otherwise


def _set_geometry(dof: DegreesOfFreedom, relaxed: Crystal) -> None:
    if dof.moves_cell:
        dof.atoms.set_cell(relaxed.cell)
    dof.atoms.set_positions(relaxed.positions)


def _masked_cell(dof: DegreesOfFreedom, new_cell: np.ndarray) -> np.ndarray:
    """``new_cell`` (3, 3), masked as the filter does it: in the deformation of the cell that it started from."""
    original = dof.orig_cell
    if dof.cell is None or original is None or all(dof.cell.mask):
        return new_cell
    deformation = np.linalg.solve(original, new_cell) - np.eye(3)
    return original @ (np.eye(3) + deformation * dof.cell.matrix)


def _strain(dof: DegreesOfFreedom, new_cell: np.ndarray) -> None:
    """Set the cell and carry the atoms along, by ASE's rules: constraints adjust it, StrainFilter keeps its count."""
    atoms, target = dof.atoms, dof.target
    strain = logarithmic_strain(atoms.cell.complete().array, Cell(new_cell).complete().array)
    steps = max(1, int(np.ceil(np.abs(strain).max() / _SYMMETRIC_STEP))) if atoms.constraints else 1
    if steps == 1:
        atoms.set_cell(new_cell, scale_atoms=True)
    for _ in range(steps if steps > 1 else 0):  # each from where constraints have let the last one come
        atoms.set_cell(atoms.cell.array @ matrix_function(np.exp, strain / steps), scale_atoms=True)
    if isinstance(target, StrainFilter):
        small = np.linalg.solve(np.asarray(target.origcell), atoms.cell.array) - np.eye(3)
        small = (small + small.T) / 2
        target.strain[:] = [*np.diag(small), 2 * small[1, 2], 2 * small[0, 2], 2 * small[0, 1]]


def _displace(dof: DegreesOfFreedom, displacements: np.ndarray) -> None:
    """Displace the atoms that may, under their constraints.

    The model does not tell where the crystal as a whole is: it is put where constraints take least from the motion, so
    that, say, a fixed atom does not spoil the distances to its neighbours.
    """
    atoms = dof.atoms
    if not dof.visible.any():
        return
    taken = _taken(dof, displacements)
    if taken.any():
        common = [np.broadcast_to(axis, displacements.shape) for axis in np.eye(3)]
        taken_of_common = np.stack([_taken(dof, one).ravel() for one in common], axis=1)
        displacements = displacements - np.linalg.lstsq(taken_of_common, taken.ravel(), rcond=1e-6)[0]
    atoms.set_positions(atoms.positions + displacements * dof.visible[:, None])


def _taken(dof: DegreesOfFreedom, displacements: np.ndarray) -> np.ndarray:
    """(N, 3) Å, what filter and constraints take of ``displacements``; zero where that is rounding."""
    atoms = dof.atoms
    positions = atoms.positions + displacements * dof.visible[:, None]
    for constraint in atoms.constraints:
        constraint.adjust_positions(atoms, positions)
    taken = displacements - (positions - atoms.positions)
    return np.where(np.abs(taken) > _ROUNDING, taken, 0.0)
