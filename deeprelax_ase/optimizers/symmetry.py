"""Making atoms exactly symmetric before they are relaxed, and keeping them so."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from deeprelax_ase.crystal import Crystal, validate
from deeprelax_ase.errors import ConstraintError, StructureError
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.allowed_strain import (
    AllowedStrain,
    RelaxCell,
    refuse_broken_symmetry,
    refuse_symmetry_of,
)

#: Å, tolerance within which the symmetry that is to be kept is sought: that of predictions.
SYMPREC = 1e-3


def hold_symmetry(atoms: Atoms, relax_cell: RelaxCell) -> None:
    """Constrain ``atoms`` to the space group that they have within :data:`SYMPREC`, by ASE's ``FixSymmetry``.

    Args:
        atoms: are given the constraint.
        relax_cell: how their cell may move.

    Raises:
        ConstraintError: other constraints, or the mask of the strain, would break the symmetry.
        StructureError: the atoms are no crystal; or no space group is found.
    """
    from ase.constraints import FixSymmetry

    pbc = True if sum(atoms.pbc) > 1 else atoms.pbc  # the groups of layers are those of layers on top of each other
    validate(Crystal(atoms.numbers, atoms.positions, atoms.cell.array, pbc))  # NaN would kill spglib's process
    refuse_symmetry_of(atoms.constraints)
    try:
        held = FixSymmetry(atoms.copy(), symprec=SYMPREC)  # it refines the atoms that it is given
    except Exception as error:  # spglib's, which has changed its ways of failing
        raise StructureError(f"no space group was found within {SYMPREC} Å to be kept ({error})") from error
    if isinstance(relax_cell, AllowedStrain):
        cell = atoms.cell.array
        refuse_broken_symmetry(relax_cell, [np.linalg.solve(cell, w.T @ cell) for w in held.rotations])
    atoms.set_constraint(held)


def symmetrize_first(dof: DegreesOfFreedom, symprec: float) -> None:
    """Give bare atoms the positions, and their cell the shape, that their space group within ``symprec`` asks for.

    Args:
        dof: of the atoms, which are changed.
        symprec: Å.

    Raises:
        ConstraintError: the cell, or an atom, may not move as symmetry asks.
        StructureError: no space group is found within ``symprec``.
    """
    from ase.spacegroup.symmetrize import refine_symmetry

    atoms = dof.atoms
    if not dof.own_filter or not dof.free or dof.normal is not None:
        raise ConstraintError(
            f"{symprec=} makes positions and cell symmetric first, which only bare Atoms may be whose cell moves in "
            "all directions, without constraints. Call ase.spacegroup.symmetrize.refine_symmetry(atoms, symprec) "
            "yourself before adding filter or constraints."
        )
    refined: Atoms = atoms.copy()
    try:
        refine_symmetry(refined, symprec, verbose=False)
    except Exception as error:  # spglib's, which has changed its ways of failing
        raise StructureError(f"no space group was found within {symprec=} Å; try another one ({error})") from error
    atoms.set_cell(refined.cell)
    atoms.set_positions(refined.positions)
    dof.restore_orig_cell(atoms.cell.array.copy())
