"""Moving atoms to where a model predicts them, exactly as far as constraints and filters let them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.filters import StrainFilter

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import StructureError
from deeprelax_ase.geometry.strain import logarithmic_strain
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.cell_freedom import permitted
from deeprelax_ase.prediction.constrained import displace_atoms, strain_atoms

if TYPE_CHECKING:
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


def move_to(dof: DegreesOfFreedom, prediction: Prediction, predictor: Predictor | None = None) -> None:
    """Move the atoms to where they are predicted, cell and positions as far as they may move.

    Where constraints keep the cell from the predicted one, ``predictor`` predicts once more, in the cell that they
    allow. Without it, the displacements stay those of the prediction.

    Where atoms repeat in two directions the vector of the third is kept, however it leans; where a filter goes on from
    there, only if it is upright.
    """
    crystal, relaxed = prediction.initial, prediction.relaxed
    if dof.free and dof.normal is None:
        _set_geometry(dof, relaxed)
        return
    displacements, given = prediction.displacements, dof.atoms.cell.array.copy()
    if dof.cell is not None:
        deformation = permitted(dof.cell, logarithmic_strain(crystal.cell, relaxed.cell), dof.plane)
        new_cell = _masked_cell(dof, dof.atoms.cell.array @ deformation)
        restricted = not np.allclose(crystal.cell @ deformation, relaxed.cell, rtol=0, atol=1e-9)
        if predictor is not None and dof.visible.any() and restricted:
            displacements = _displacements_in(crystal, crystal.cell @ deformation, predictor, displacements)
        _strain(dof, new_cell)
    if dof.visible.any():
        displace_atoms(dof.atoms, displacements, dof.visible)
    repeats = dof.atoms.pbc
    if dof.own_filter and not dof.has_calculator and repeats.sum() == 2:  # a filter's own steps count the whole cell
        dof.atoms.cell[~repeats] = given[~repeats]


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
    if dof.cell is None or all(dof.cell.mask) or (original := dof.orig_cell) is None:
        return new_cell
    deformation = np.linalg.solve(original, new_cell) - np.eye(3)
    return original @ (np.eye(3) + deformation * dof.cell.matrix)


def _strain(dof: DegreesOfFreedom, new_cell: np.ndarray) -> None:
    """Set the cell and carry the atoms along, by ASE's rules; StrainFilter keeps its count."""
    atoms, target = dof.atoms, dof.given
    strain_atoms(atoms, new_cell)
    if isinstance(target, StrainFilter):
        small = np.linalg.solve(np.asarray(target.origcell), atoms.cell.array) - np.eye(3)
        small = (small + small.T) / 2
        target.strain[:] = [*np.diag(small), 2 * small[1, 2], 2 * small[0, 2], 2 * small[0, 1]]
