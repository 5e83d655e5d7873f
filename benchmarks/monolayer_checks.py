"""Whether the relaxation of a monolayer makes a pair: it is still one layer, and not too far from where it was."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from monolayer_relaxing import Relaxed
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: Atoms nearer than this part of the sum of their covalent radii overlap; those up to the second are bonded.
OVERLAP, BONDED = 0.6, 1.25

#: What a relaxed monolayer may differ by: |ln area ratio|, mean displacement in Å, thickness as a multiple (of
#: :data:`FLAT` Å at least: a flat layer may buckle), and the empty height that must be left in Å.
AREA, DISPLACEMENT, THICKNESS, FLAT, EMPTY = 0.6, 1.5, 1.6, 1.5, 15.0


def overlaps(atoms: Atoms) -> bool:
    """Whether any two atoms, images included, are nearer than :data:`OVERLAP` allows."""
    return len(neighbor_list("i", atoms, natural_cutoffs(atoms, OVERLAP))) > 0


def is_one_layer(atoms: Atoms) -> bool:
    """Whether bonds join all atoms of 3×3 cells: neither molecules, nor chains, nor two layers are left."""
    layer = atoms.repeat((3, 3, 1))
    first, second = neighbor_list("ij", layer, natural_cutoffs(layer, BONDED))
    bonds = coo_array((np.ones(len(first)), (first, second)), shape=(len(layer), len(layer)))
    return connected_components(bonds, directed=False, return_labels=False) == 1


def area_change(before: Atoms, after: Atoms) -> float:
    """ln of the ratio of the areas; c is the same in both."""
    return float(np.log(after.get_volume() / before.get_volume()))


def is_too_far(before: Atoms, after: Atoms) -> str:
    """Why ``after`` is no relaxation of ``before`` whatever follows; empty if it may be one."""
    heights = [np.ptp(atoms.positions[:, 2]) for atoms in (before, after)]
    if heights[1] > THICKNESS * max(heights[0], FLAT):
        return "thickness"
    if after.cell[2, 2] - heights[1] < EMPTY:
        return "vacuum"
    return "area" if abs(area_change(before, after)) > AREA else ""


def displacements(before: Atoms, after: Atoms) -> np.ndarray:
    """(N, 3) by how much fractional coordinates change, less their mean."""
    change = after.get_scaled_positions(wrap=False) - before.get_scaled_positions(wrap=False)
    return change - change.mean(axis=0)


def decision(before: Atoms, run: Relaxed) -> str:
    """Why the pair is left out; empty if it is kept."""
    if reason := is_too_far(before, run.atoms):
        return reason
    if not run.converged:
        return "not converged"
    change = displacements(before, run.atoms)
    if np.linalg.norm(change @ run.atoms.cell.array, axis=1).mean() > DISPLACEMENT or abs(change).max() >= 0.5:
        return "displacement"
    if overlaps(run.atoms):
        return "overlap"
    return "" if is_one_layer(run.atoms) else "fell apart"
