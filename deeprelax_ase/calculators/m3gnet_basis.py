"""The functions of distance and direction that M3GNet reads: spherical Bessel functions and spherical harmonics."""

from __future__ import annotations

import math

import torch

from deeprelax_ase.graph.shapes import AngularBasis, EdgeFeatures, EdgeVectors, Lengths, Values

#: The first three roots of the spherical Bessel functions of order 0, 1 and 2.
_ROOTS = (
    (math.pi, 2 * math.pi, 3 * math.pi),
    (4.493409457909064, 7.725251836937707, 10.904121659428899),
    (5.763459196894550, 9.095011330476355, 12.322940970566582),
)
#: |j| of the next order at these roots; that of the previous order is the same there.
_NORMS = (
    tuple(1 / x for x in _ROOTS[0]),
    tuple(abs(math.sin(x)) / x for x in _ROOTS[1]),
    tuple(abs(math.sin(x) / x - math.cos(x)) / x for x in _ROOTS[2]),
)


def radial_constants(cutoff: float) -> tuple[Values, Values]:
    """Return the factors of distances and of functions in :func:`radial_basis`, (9,) each, in float32 as in MatGL."""
    norms = [math.sqrt(2 / cutoff**3) / norm for order in _NORMS for norm in order]
    return torch.tensor(_ROOTS, dtype=torch.float32).flatten(), torch.tensor(norms, dtype=torch.float32)


def radial_basis(distances: Lengths, cutoff: float, roots: Values, norms: Values) -> EdgeFeatures:
    """(E, 9) normalised spherical Bessel functions, three of each order 0, 1 and 2; zero from the ``cutoff`` (Å) on.

    Args:
        distances: (E,) Å.
        cutoff: Å.
        roots, norms: (9,) of :func:`radial_constants`, on the device and in the precision of the distances.
    """
    x = distances[:, None] * (roots / cutoff)
    sine, cosine = torch.sin(x) / x, torch.cos(x) / x
    inverse = 1 / x[:, 3:]
    first = sine[:, 3:] * inverse - cosine[:, 3:]  # j_1
    second = 3 * first[:, 3:] * inverse[:, 3:] - sine[:, 6:]  # j_2
    functions = torch.cat([sine[:, :3], first[:, :3], second], dim=1) * norms
    return torch.where(distances[:, None] < cutoff, functions, 0.0)


def smooth_cutoff(distances: Lengths, cutoff: float) -> Lengths:
    """(E,) a polynomial from 1 to 0 at the ``cutoff`` (Å), where its first and second derivative vanish."""
    x = (distances / cutoff).clamp(max=1)
    return 1 + x**3 * (-10 + x * (15 - 6 * x))


def angular_basis(directions: EdgeVectors) -> AngularBasis:
    """(E, 3) unit vectors to (E, 9) real spherical harmonics of order 0, 1 and 2.

    The harmonics of one order, multiplied and summed for two directions, give the Legendre polynomial of the cosine
    between them in the norm of ``Y_l0``: the function of the angle that M3GNet reads.
    """
    x, y, z = directions.unbind(dim=1)
    scales = [math.sqrt(math.sqrt((2 * order + 1) / (4 * math.pi))) for order in range(3)]
    root = scales[2] * math.sqrt(3)
    return torch.stack(
        [
            torch.full_like(x, scales[0]),
            *(scales[1] * x, scales[1] * y, scales[1] * z),
            *(root * x * y, root * y * z, root * z * x, 0.5 * root * (x * x - y * y)),
            0.5 * scales[2] * (2 * z * z - x * x - y * y),
        ],
        dim=1,
    )
