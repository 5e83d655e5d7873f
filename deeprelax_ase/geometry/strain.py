"""Polar factors and logarithmic (Hencky) strain of a deformation: of one crystal in NumPy, of a batch in torch.

Lattice vectors stand in rows, so that ``cell = initial_cell F`` with the deformation gradient ``F = U Q``: the stretch
U is symmetric, the rotation Q orthogonal, and log U is the strain.
"""

from __future__ import annotations

import numpy as np
import torch

from deeprelax_ase.graph.crystal_graph import inverses, rows_times_matrices
from deeprelax_ase.graph.shapes import Batch, CellArray, Cells, Matrices, Positions, SquareArray

#: Newton's steps towards Q (Higham, SIAM J. Sci. Stat. Comput. 7, 1160 (1986)): eight are exact to rounding where
#: lengths change by factors of up to ten.
_POLAR_STEPS = 8


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
    deformation = rotation = matrix_product(inverses(initial_cell), cell)
    for _ in range(_POLAR_STEPS):
        rotation = (rotation + inverses(rotation).mT) / 2
    stretch = matrix_product(deformation, rotation.mT)
    new_cell = matrix_product(initial_cell, (stretch + stretch.mT) / 2)
    fractional = rows_times_matrices(positions, inverses(cell)[batch])
    return rows_times_matrices(fractional, new_cell[batch]), new_cell


def logarithmic_strain(initial_cell: CellArray, cell: CellArray) -> CellArray:
    """(3, 3) log U, symmetric: the strain from ``initial_cell`` to ``cell`` (3, 3), whatever the rotation."""
    deformation = np.linalg.solve(initial_cell, cell)
    return 0.5 * matrix_function(np.log, deformation @ deformation.T)


def matrix_function(function: np.ufunc, symmetric: SquareArray) -> SquareArray:
    """``function``, such as ``np.exp``, of a ``symmetric`` matrix (n, n)."""
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    return (vectors * function(values)) @ vectors.T


def symmetric_exponential(matrices: Matrices, terms: int = 8) -> Matrices:
    """exp of small symmetric (G, 3, 3) matrices by its series: exact to rounding in float32 for norms below 0.7.

    ``torch.linalg.matrix_exp`` synchronises with the host; this does not.
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    result = identity.expand_as(matrices)
    for n in range(terms, 0, -1):
        result = identity + matrix_product(matrices, result) / n
    return result


def symmetric_logarithm(matrices: Matrices, terms: int = 9) -> Matrices:
    """Logarithm of (G, 3, 3) symmetric positive matrices near the identity, without a wait for the device.

    ``log C = 2 artanh((C - 1) (C + 1)^-1)`` by its series, exact to 1e-12 for strains up to 0.2.
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    ratio = matrix_product(matrices - identity, inverses(matrices + identity))
    square = matrix_product(ratio, ratio)
    result = torch.zeros_like(matrices)
    for n in range(terms - 1, -1, -1):
        result = identity / (2 * n + 1) + matrix_product(square, result)
    return 2 * matrix_product(ratio, result)


def matrix_product(left: Matrices, right: Matrices) -> Matrices:
    """(G, 3, 3) products in full precision: autocast and TF32 would round cells to 1e-2 Å."""
    return (left[:, :, :, None] * right[:, None, :, :]).sum(dim=2)
