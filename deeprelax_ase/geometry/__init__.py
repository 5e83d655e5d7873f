"""From predicted relaxation quantities to a crystal: bounds, the distance geometry solver, and symmetry."""

from __future__ import annotations

from deeprelax_ase.geometry.bounds import bounded_euclidean_distance_loss, distance_bounds
from deeprelax_ase.geometry.edg import DEFAULT_EDG_SETTINGS, EDGSettings, EDGSolution, solve_edg
from deeprelax_ase.geometry.symmetry import (
    SYMPREC,
    SymmetryOperations,
    primitive_atoms,
    project,
    site_freedom,
    symmetrize,
    symmetry_operations,
)
from deeprelax_ase.geometry.terms import DistanceTerms, PullEvaluator, distance_terms, select_atoms

__all__ = [
    "DEFAULT_EDG_SETTINGS",
    "SYMPREC",
    "DistanceTerms",
    "EDGSettings",
    "EDGSolution",
    "PullEvaluator",
    "SymmetryOperations",
    "bounded_euclidean_distance_loss",
    "distance_bounds",
    "distance_terms",
    "primitive_atoms",
    "project",
    "select_atoms",
    "site_freedom",
    "solve_edg",
    "symmetrize",
    "symmetry_operations",
]
