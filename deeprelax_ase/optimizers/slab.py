"""Layers and slabs among the atoms that an optimizer is given: they are strained in their plane only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms

from deeprelax_ase.crystal import Crystal, plane_normal
from deeprelax_ase.errors import StructureError


class Layer(NamedTuple):
    """Atoms with vacuum in one direction.

    Attributes:
        normal: (3,) unit vector out of their plane.
        thick: whether they are a slab, whose cell is kept unless asked.
    """

    normal: np.ndarray
    thick: bool


def layer_of(atoms: Atoms) -> Layer | None:
    """The layer or slab that ``atoms`` are; None for all others, and for what no model can relax."""
    from deeprelax_ase.geometry.vacuum import vacuum_of  # here, as it loads torch
    from deeprelax_ase.graph import GraphSettings, build_graph

    normal = plane_normal(atoms.pbc, atoms.cell.array)
    try:
        vacuum = vacuum_of(build_graph([Crystal.from_atoms(atoms)], settings=GraphSettings(max_in_cell=0)))
    except StructureError:  # the jump tells why
        return None if normal is None else Layer(normal, thick=False)
    if normal is None and vacuum.directions.item() == 1:
        across = (np.eye(3) - vacuum.planes[0].numpy()).sum(axis=0)
        normal = across / np.linalg.norm(across)
    return None if normal is None else Layer(normal, thick=bool(vacuum.slabs.item()))
