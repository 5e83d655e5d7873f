"""From predicted quantities to a crystal: bounds, the solver, strain, nearest images, vacuum and symmetry."""

from __future__ import annotations

from deeprelax_ase.geometry.edg import DEFAULT_EDG_SETTINGS, EDGSettings, EDGSolution, solve_edg
from deeprelax_ase.geometry.nearest_images import nearest_displacements
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.geometry.strain import logarithmic_strain, remove_rotation
from deeprelax_ase.geometry.symmetry import SYMPREC, SymmetryOperations, project, symmetry_operations
from deeprelax_ase.geometry.terms import bounded_euclidean_distance_loss, distance_bounds
from deeprelax_ase.geometry.vacuum import Vacuum, in_plane_projectors, strain_projectors, vacuum_of

__all__ = [
    "DEFAULT_EDG_SETTINGS",
    "SYMPREC",
    "EDGSettings",
    "EDGSolution",
    "RelaxationQuantities",
    "SymmetryOperations",
    "Vacuum",
    "bounded_euclidean_distance_loss",
    "distance_bounds",
    "in_plane_projectors",
    "logarithmic_strain",
    "nearest_displacements",
    "project",
    "remove_rotation",
    "solve_edg",
    "strain_projectors",
    "symmetry_operations",
    "vacuum_of",
]
