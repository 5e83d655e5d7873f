"""Layers and wires for potentials that know crystals that repeat in all directions, or in none."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from scipy.linalg import null_space

#: Å, by which images lie further apart than neighbours can.
_MARGIN = 1.0


def as_periodic(atoms: Atoms, cutoff: float) -> tuple[Atoms, float]:
    """Let what repeats in one or two directions repeat in the others too, too far away to be a neighbour.

    Args:
        atoms: those that repeat in all directions, or in none, are returned as they are.
        cutoff: Å, up to which atoms are neighbours.

    Returns:
        the atoms, and by what stress is to be multiplied, as it is told by volume: 0 where the cell has none.
    """
    if atoms.pbc.all() or not atoms.pbc.any():
        return atoms, 1.0
    periodic = atoms.copy()
    cell = atoms.cell.array.copy()
    normals = null_space(cell[atoms.pbc]).T
    heights = np.ptp(atoms.positions @ normals.T, axis=0) + cutoff + _MARGIN
    cell[~atoms.pbc] = normals * heights[:, None]
    periodic.set_cell(cell, apply_constraint=False)  # room around a layer is no strain
    periodic.pbc = True
    given = abs(np.linalg.det(atoms.cell.array))
    return periodic, abs(np.linalg.det(cell)) / given if given > 1e-6 else 0.0


def scaled_stress(results: dict[str, Any], scale: float) -> dict[str, Any]:
    """The ``results`` with the stress multiplied; without one where the cell has no volume to tell it by."""
    results = dict(results)
    if "stress" in results:
        results["stress"] = results["stress"] * scale
        if not scale:
            del results["stress"]
    return results
