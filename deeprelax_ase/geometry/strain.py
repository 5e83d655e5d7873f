"""Polar factors and logarithmic (Hencky) strain of a deformation: of one crystal in NumPy, of a batch in torch.

Lattice vectors stand in rows, so that ``cell = initial_cell F`` with the deformation gradient ``F = U Q``: the stretch
U is symmetric, the rotation Q orthogonal, and log U is the strain.
"""

from __future__ import annotations

import numpy as np
import torch

from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.graph.shapes import Batch, Cells, Positions


def remove_rotation(initial_cell: Cells, positions: Positions, cell: Cells, batch: Batch) -> tuple[Positions, Cells]:
    """Relaxed crystals without the rotation Q, in the orientation of the unrelaxed ones.

    Strains applied one after the other leave a small rotation behind, which means nothing in a crystal.

    Args:
        initial_cell: (G, 3, 3) Å.
        positions: (N, 3) Å, in the relaxed ``cell`` (G, 3, 3); fractional coordinates stay.
        cell: see above.
        batch: (N,) the crystal of each atom.

    Returns:
        positions and cell without the rotation.
    """
    deformation = torch.linalg.solve(initial_cell, cell)
    squares, axes = torch.linalg.eigh(deformation @ deformation.mT)
    stretch = (axes * squares.sqrt()[:, None]) @ axes.mT
    new_cell = initial_cell @ stretch
    fractional = rows_times_matrices(positions, torch.linalg.inv(cell)[batch])
    return rows_times_matrices(fractional, new_cell[batch]), new_cell


def logarithmic_strain(initial_cell: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """(3, 3) log U, symmetric: the strain from ``initial_cell`` to ``cell`` (3, 3), whatever the rotation."""
    deformation = np.linalg.solve(initial_cell, cell)
    return 0.5 * matrix_function(np.log, deformation @ deformation.T)


def matrix_function(function: np.ufunc, symmetric: np.ndarray) -> np.ndarray:
    """``function``, such as ``np.exp``, of a ``symmetric`` matrix (n, n)."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    return (vectors * function(values)) @ vectors.T
