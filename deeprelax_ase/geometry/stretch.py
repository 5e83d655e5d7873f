"""The stretch in a deformation, without its rotation: of one crystal in NumPy, of a batch in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.graph.record import rows_times_matrices


def keep_orientation(initial_cell: Tensor, positions: Tensor, cell: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Relaxed crystals turned back to the orientation of the unrelaxed ones.

    With lattice vectors in rows ``cell = initial_cell U Q``, where U stretches and Q rotates. Strains applied one after
    the other leave a small rotation behind, which means nothing in a crystal.

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
    """(3, 3) symmetric logarithm of the stretch that takes ``initial_cell`` to ``cell``, up to a rotation.

    With lattice vectors in rows ``cell = initial_cell @ U @ Q``: U stretches, then Q rotates. Returns log U.
    """
    deformation = np.linalg.solve(initial_cell, cell)
    return 0.5 * matrix_function(np.log, deformation @ deformation.T)


def matrix_function(function: np.ufunc, symmetric: np.ndarray) -> np.ndarray:
    """``function``, such as ``np.exp``, of a ``symmetric`` matrix (n, n)."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    return (vectors * function(values)) @ vectors.T
