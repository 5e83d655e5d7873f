"""Atoms that repeat in two directions: slabs and layers, which the model sees as crystals with vacuum between them."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from deeprelax_ase.crystal import Crystal

#: Å of vacuum above a slab as the model sees it: more than its cutoff, so that slabs do not see each other.
_VACUUM = 12.0


def slab_normal(atoms: Atoms) -> np.ndarray | None:
    """(3,) unit vector out of the plane of ``atoms`` that repeat in two directions; None for all others."""
    periodic = np.asarray(atoms.pbc, dtype=bool)
    if periodic.sum() != 2:
        return None
    normal = np.cross(*atoms.cell.array[periodic])
    length = np.linalg.norm(normal)
    return normal / length if length > 0 else None


def crystal_of(atoms: Atoms) -> Crystal:
    """What the model sees of the atoms: slabs get a cell with vacuum, across which it does not see.

    Raises:
        StructureError: the atoms are no crystal and no slab.
    """
    normal = slab_normal(atoms)
    if normal is None:
        return Crystal.from_atoms(atoms)
    cell = atoms.cell.array.copy()
    cell[~atoms.pbc] = (np.ptp(atoms.positions @ normal) + _VACUUM) * normal
    stand_in = atoms.copy()
    stand_in.set_constraint()
    stand_in.set_cell(cell)
    stand_in.pbc = True
    return Crystal.from_atoms(stand_in)
