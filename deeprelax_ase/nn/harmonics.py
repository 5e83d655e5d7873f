"""Features of rank 1 and 2: directions as harmonics, and the products that stay equivariant.

Rank-2 features are symmetric traceless 3x3 matrices, held as their 5 coefficients in an orthonormal basis Q. A
rotation or reflection of the crystal acts on vectors and on the matrices; every product here commutes with it.
A stack (..., 8, F) holds the 3 vector rows first, then the 5 tensor rows.
"""

from __future__ import annotations

import math

import torch

from deeprelax_ase.graph.shapes import EdgeVectors, Harmonics, Matrices, TensorCoefficients, Tensors, Vectors

#: Rows of a stack that hold vectors and tensors.
VECTOR, TENSOR = slice(0, 3), slice(3, 8)

#: Entries of the basis Q, in the order xy, yz, zx, xx - yy, zz.
_H, _D, _Z = 1 / math.sqrt(2), 1 / math.sqrt(2), 1 / math.sqrt(6)


def harmonics(directions: EdgeVectors) -> Harmonics:
    """(E, 3) unit vectors to (E, 8) harmonics of rank 1 and 2, each of unit variance over the sphere."""
    x, y, z = directions.unbind(dim=1)
    tensor = (2 * _H * x * y, 2 * _H * y * z, 2 * _H * z * x, _D * (x * x - y * y), _Z * (2 * z * z - x * x - y * y))
    return torch.cat([math.sqrt(3) * directions, math.sqrt(7.5) * torch.stack(tensor, dim=1)], dim=1)


def vector_product(left: Vectors, right: Vectors) -> Tensors:
    """Traceless symmetric part of ``left`` x ``right``: two (N, 3, F) vectors to (N, 5, F)."""
    (ax, ay, az), (bx, by, bz) = left.unbind(dim=1), right.unbind(dim=1)
    xx, yy, zz = ax * bx, ay * by, az * bz
    return torch.stack(
        [
            _H * (ax * by + ay * bx),
            _H * (ay * bz + az * by),
            _H * (az * bx + ax * bz),
            _D * (xx - yy),
            _Z * (2 * zz - xx - yy),
        ],
        dim=1,
    )


def tensor_times_vector(tensor: Tensors, vector: Vectors) -> Vectors:
    """T v channel by channel: (N, 5, F) and (N, 3, F) to (N, 3, F)."""
    xy, yz, zx, d, s = tensor.unbind(dim=1)
    x, y, z = vector.unbind(dim=1)
    return torch.stack(
        [
            (_D * d - _Z * s) * x + _H * (xy * y + zx * z),
            (-_D * d - _Z * s) * y + _H * (xy * x + yz * z),
            2 * _Z * s * z + _H * (yz * y + zx * x),
        ],
        dim=1,
    )


def tensor_coefficients(matrices: Matrices) -> TensorCoefficients:
    """(G, 3, 3) symmetric matrices to the (G, 5) coefficients of their traceless parts."""
    (xx, xy, zx), (_, yy, yz), (_, _, zz) = (row.unbind(dim=1) for row in matrices.unbind(dim=1))
    return torch.stack([2 * _H * xy, 2 * _H * yz, 2 * _H * zx, _D * (xx - yy), _Z * (2 * zz - xx - yy)], dim=1)


def tensor_matrix(coefficients: TensorCoefficients) -> Matrices:
    """(G, 5) coefficients to the (G, 3, 3) matrices that they stand for."""
    xy, yz, zx, d, s = coefficients.unbind(dim=1)
    upper = [_D * d - _Z * s, _H * xy, _H * zx, -_D * d - _Z * s, _H * yz, 2 * _Z * s]
    return torch.stack([upper[k] for k in (0, 1, 2, 1, 3, 4, 2, 4, 5)], dim=1).view(-1, 3, 3)
