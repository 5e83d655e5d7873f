"""Layers and slabs among the atoms that an optimizer is given: they are strained in their plane only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deeprelax_ase.crystal import plane_normal
from deeprelax_ase.errors import StructureError
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms


class Layer(NamedTuple):
    """Atoms with vacuum in one direction.

    Attributes:
        normal: (3,) unit vector out of their plane.
        thick: whether they are a slab, whose cell is kept unless asked.
    """

    normal: np.ndarray
    thick: bool


def layer_of(checked: CheckedAtoms) -> Layer | None:
    """The layer or slab that the atoms are; None for all others, and for what no model can relax."""
    normal = plane_normal(checked.atoms.pbc, checked.atoms.cell.array)
    try:
        vacuum = checked.vacuum()
    except StructureError:  # the jump tells why
        return None if normal is None else Layer(normal, thick=False)
    if normal is None and vacuum.directions.item() == 1:
        projector = np.eye(3) - vacuum.planes[0].numpy()
        across = projector[np.argmax(np.diag(projector))]
        normal = across / np.linalg.norm(across)
    return None if normal is None else Layer(normal, thick=bool(vacuum.slabs.item()))
